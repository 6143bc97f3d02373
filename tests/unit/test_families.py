"""The Qwen2-Audio family against plain transformers: features, names, prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from tests.random_models import make_student
from xopd.families import open_family


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def test_trimmed_features_equal_the_full_window(student: Path) -> None:
    family = open_family(str(student))
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, n).astype(np.float32) for n in (16000, 23456, 40001)]
    ours = family.load_audio_encoder(torch.float32).encode(waves)

    model = Qwen2AudioForConditionalGeneration.from_pretrained(student).eval()
    seen = []
    model.model.multi_modal_projector.register_forward_hook(lambda _m, _i, out: seen.append(out))
    for wave, features in zip(waves, ours, strict=True):
        inputs = family.processor(
            text="<|audio_bos|><|AUDIO|><|audio_eos|>", audio=[wave], sampling_rate=16000, return_tensors="pt"
        )
        with torch.no_grad():
            model(**inputs)
        placeholders = int((inputs["input_ids"] == family.audio_token_id).sum())
        assert features.shape[0] == placeholders
        torch.testing.assert_close(features, seen.pop()[0, :placeholders], atol=2e-5, rtol=0)


def test_hub_names_round_trip(student: Path) -> None:
    family = open_family(str(student))
    policy = family.load_policy(torch.float32)
    state = family.hub_state(policy)
    assert {"audio_tower.conv1.weight", "language_model.lm_head.weight"} <= set(state)
    trained = {name for name in state if not family.is_frozen(name)}
    assert all(name.startswith("language_model.") for name in trained)
    frozen = [n for n, p in policy.named_parameters() if not p.requires_grad]
    assert frozen and all("audio_tower" in n or "projector" in n for n in frozen)
    family.load_hub_state(policy, {"language_model.lm_head.weight": torch.zeros_like(policy.lm_head.weight)})
    assert float(policy.lm_head.weight.detach().abs().sum()) == 0.0


def test_prompts(student: Path) -> None:
    family = open_family(str(student))
    decode = family.tokenizer.decode
    assert decode(family.render_text("hi")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    spoken = family.render_speech("how fast")
    assert spoken.count(family.audio_token_id) == 1
    assert decode(spoken) == (
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>how fast<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_loaded_policy_does_not_follow_its_file(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "student")
    policy = open_family(str(folder)).load_policy(torch.float32)
    before = policy.lm_head.weight.detach().clone()
    file = folder / "model.safetensors"
    with file.open("r+b") as raw:
        raw.seek(-file.stat().st_size // 2, 2)
        raw.write(b"\0" * (file.stat().st_size // 2))
    assert torch.equal(policy.lm_head.weight.detach(), before)
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())


SAMPLES = (1, 160, 320, 321, 480, 481, 1000, 16000, 16001, 16480, 23456, 479_840, 479_999, 480_000)


def test_the_number_of_audio_tokens_is_known_before_a_clip_is_encoded(student: Path) -> None:
    family = open_family(str(student))
    encoder = family.load_audio_encoder(torch.float32)
    rng = np.random.default_rng(0)
    for samples in SAMPLES:
        (features,) = encoder.encode([rng.normal(0, 0.1, samples).astype(np.float32)])
        assert len(features) == family.audio_tokens(samples), samples
    assert [family.audio_tokens(n) for n in (0, 320, 321, 480_000)] == [0, 0, 1, 750]


def test_the_windows_end_is_what_the_tower_hears(student: Path) -> None:
    family = open_family(str(student))
    assert family.max_audio_samples == 30 * 16000
    encoder = family.load_audio_encoder(torch.float32)
    wave = np.random.default_rng(0).normal(0, 0.1, family.max_audio_samples).astype(np.float32)
    whole, longer = encoder.encode([wave]), encoder.encode([np.concatenate([wave, wave])])
    assert torch.equal(whole[0], longer[0])
