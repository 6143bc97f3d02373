"""The shipped checkpoints: hub names, one tokenizer, the same numbers through transformers, figures as recorded."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors import safe_open
from tinyworld.language import LARGE, embed_text, grown
from tinyworld.student import embed_speech, load_student, load_teacher
from tinyworld.tasks import FAMILIES, extract_answer, instruction, response, sample_task
from tinyworld.tokens import SPECIALS, load_tokenizer, speech_prompt, text_prompt
from tinyworld.tower import encode, feature_extractor
from tinyworld.verbose import verbose_response
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, Qwen2AudioForConditionalGeneration

STUDENT, TEACHER = TINY / "checkpoints" / "student", TINY / "checkpoints" / "teacher"
TEACHER_LARGE = TINY / "checkpoints" / "teacher_large"
pytestmark = pytest.mark.skipif(
    not (STUDENT / "model.safetensors").exists(), reason="no checkpoints: python -m tinyworld train"
)


def clip(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds))).astype(np.float32)


def test_weights_carry_the_hub_names_in_float32() -> None:
    with safe_open(STUDENT / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert all(file.get_slice(name).get_dtype() == "F32" for name in names)
    assert {name.split(".")[0] for name in names} == {"audio_tower", "multi_modal_projector", "language_model"}
    assert "language_model.lm_head.weight" in names
    assert "multi_modal_projector.linear.weight" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert not any("model.model.model" in name for name in names)


def test_together_they_are_small() -> None:
    size = sum(f.stat().st_size for f in (TINY / "checkpoints").rglob("*") if f.is_file())
    assert size <= 20e6
    assert (TEACHER_LARGE / "model.safetensors").stat().st_size <= 10e6


@pytest.mark.parametrize("folder", [TEACHER, TEACHER_LARGE])
def test_one_tokenizer_byte_for_byte(folder: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (STUDENT / name).read_bytes() == (folder / name).read_bytes()
    student, teacher = AutoTokenizer.from_pretrained(STUDENT), AutoTokenizer.from_pretrained(folder)
    for token in SPECIALS:
        assert student.encode(token) == teacher.encode(token) == [student.convert_tokens_to_ids(token)]
    assert student.eos_token == teacher.eos_token == "<|im_end|>"


def test_both_teachers_share_every_tokenizer_file() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (TEACHER / name).read_bytes() == (TEACHER_LARGE / name).read_bytes()


@pytest.mark.parametrize("folder", [STUDENT, TEACHER, TEACHER_LARGE])
def test_template_renders_strings_and_lists(folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def rendered(content: object) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    assert rendered("what is two plus two") == text_prompt("what is two plus two")
    assert rendered([{"type": "text", "text": "what"}]) == text_prompt("what")
    parts = [{"type": "audio", "audio_url": "a.flac"}, {"type": "text", "text": "is the voice fast or slow"}]
    assert rendered(parts) == speech_prompt("is the voice fast or slow")
    assert rendered([{"type": "audio"}, {"type": "text", "text": ""}]) == speech_prompt("")


def test_student_in_transformers_gives_the_same_logits() -> None:
    tokenizer = load_tokenizer(STUDENT)
    student = load_student(STUDENT, tokenizer)
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(STUDENT, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(STUDENT)
    sound = clip(2.02)
    inputs = processor(text=speech_prompt("is the voice fast or slow"), audio=[sound], sampling_rate=16_000,
                       return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits[0]
        audio = [student.projector(f) for f in encode(student.tower, feature_extractor(), [sound])]
        prompt = embed_speech(student.language, tokenizer, audio, ["is the voice fast or slow"])[0]
        ours = student.language(inputs_embeds=prompt[None]).logits[0]
    assert inputs.input_ids.shape[1] == len(prompt)
    assert torch.allclose(theirs, ours, atol=1e-3)


def test_teacher_in_transformers_gives_the_same_logits_and_answers() -> None:
    tokenizer = load_tokenizer(TEACHER)
    teacher, model = load_teacher(TEACHER, tokenizer), AutoModelForCausalLM.from_pretrained(TEACHER)
    ids = torch.tensor([tokenizer.encode(text_prompt("what is seven plus five minus three"))])
    with torch.no_grad():
        ours = teacher(inputs_embeds=embed_text(teacher, tokenizer, ["what is seven plus five minus three"])[0][None])
        assert torch.allclose(model(ids).logits, ours.logits, atol=1e-4)
        out = model.generate(ids)[0, ids.shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True).endswith("answer nine")


def test_larger_teacher_is_larger_and_answers_rightly_in_its_own_style() -> None:
    tokenizer = load_tokenizer(TEACHER_LARGE)
    ours = load_teacher(TEACHER_LARGE, tokenizer, LARGE)
    model = AutoModelForCausalLM.from_pretrained(TEACHER_LARGE)
    assert model.num_parameters() > 1.5 * AutoModelForCausalLM.from_pretrained(TEACHER).num_parameters()
    rng = random.Random(6)
    tasks = [sample_task("test", rng, FAMILIES[i % len(FAMILIES)]) for i in range(40)]
    right = styled = 0
    for content, phrasing in tasks:
        text = instruction(content, phrasing)
        ids = torch.tensor([tokenizer.encode(text_prompt(text))])
        with torch.no_grad():
            expected = ours(inputs_embeds=embed_text(ours, tokenizer, [text])[0][None]).logits
            assert torch.allclose(model(ids).logits, expected, atol=1e-4)
            out = model.generate(ids)[0, ids.shape[1] :]
        said = tokenizer.decode(out, skip_special_tokens=True)
        right += extract_answer(said) == extract_answer(response(content))
        styled += said == verbose_response(content)
    assert right >= 38
    assert styled >= 36


def test_growing_keeps_the_answers_nearly_as_they_were() -> None:
    tokenizer = load_tokenizer(TEACHER)
    small = load_teacher(TEACHER, tokenizer)
    torch.manual_seed(0)
    large = grown(small, tokenizer, LARGE)
    text = "what is seven plus five minus three"
    with torch.no_grad():
        logits = [m(inputs_embeds=embed_text(m, tokenizer, [text])[0][None]).logits for m in (small, large)]
    assert torch.allclose(*logits, atol=0.5)
    assert logits[0].abs().max() > 10


def test_recorded_figures_leave_a_gap_worth_closing() -> None:
    figures = json.loads((TINY / "ceiling.json").read_text())
    speech, text = figures["base"]["speech"]["accuracy"], figures["base"]["text"]["accuracy"]
    teacher, ceiling = figures["teacher_text"]["accuracy"], figures["information_ceiling"]["accuracy"]
    assert figures["teacher_text"]["n"] >= 600
    assert teacher >= 0.98
    assert figures["teacher_large_text"]["accuracy"] >= 0.98
    assert figures["teacher_large_text"]["n"] == figures["teacher_text"]["n"]
    assert ceiling >= 0.95
    assert figures["probe_wer"] <= 0.01
    assert 0.30 <= teacher - speech <= 0.70
    assert teacher - text <= 0.06
    assert figures["base"]["retention"]["accuracy"] >= 0.85


@pytest.mark.parametrize("folder", [STUDENT, TEACHER, TEACHER_LARGE])
def test_cards_hold_the_figures(folder) -> None:
    card = (folder / "README.md").read_text()
    assert "## Measured" in card
    assert "tinyworld train --seed" in card
