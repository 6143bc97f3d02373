"""The Qwen2-Audio family against plain transformers: features, names, prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Qwen2AudioForConditionalGeneration

from tests.random_models import make_student
from xopd.errors import UserError
from xopd.families import open_family, registry
from xopd.families.tensors import hub_names, hub_state, load_hub_state


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
    state = hub_state(family, policy)
    assert {"audio_tower.conv1.weight", "language_model.lm_head.weight"} <= set(state)
    trained = {name for name in state if not family.is_frozen(name)}
    assert all(name.startswith("language_model.") for name in trained)
    frozen = [n for n, p in policy.named_parameters() if not p.requires_grad]
    assert frozen and all("audio_tower" in n or "projector" in n for n in frozen)
    load_hub_state(family, policy, [("language_model.lm_head.weight", torch.zeros_like(policy.lm_head.weight))])
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


def tied_policy(student: Path) -> torch.nn.Module:
    policy = Qwen2AudioForConditionalGeneration(AutoConfig.from_pretrained(student))
    policy.lm_head.weight = policy.model.language_model.embed_tokens.weight
    return policy


def test_a_tied_head_is_one_tensor_under_the_embeddings_name(student: Path) -> None:
    family, policy = open_family(str(student)), tied_policy(student)
    named = hub_names(family, dict(policy.named_parameters()))
    assert len(named) == len({id(parameter) for parameter in policy.parameters()})
    assert named["language_model.model.embed_tokens.weight"].data_ptr() == policy.lm_head.weight.data_ptr()
    assert "language_model.lm_head.weight" not in named
    untied = hub_names(family, dict(family.load_policy(torch.float32).named_parameters()))
    assert set(untied) - set(named) == {"language_model.lm_head.weight"}
    assert set(hub_state(family, policy)) == set(named)
    for name, tensor in named.items():
        if not family.is_frozen(name):
            load_hub_state(family, policy, [(name, torch.full_like(tensor, 2.0))])
    trained = [p for n, p in policy.named_parameters() if "language_model" in n]
    assert trained and all((parameter == 2.0).all() for parameter in trained)


def test_an_unknown_tensor_is_refused_by_name(student: Path) -> None:
    family, policy = open_family(str(student)), tied_policy(student)
    with pytest.raises(KeyError, match=r"no tensor 'other\.weight'"):
        load_hub_state(family, policy, [("other.weight", torch.zeros(1))])
    with pytest.raises(KeyError, match=r"'other\.weight' has no place"):
        hub_names(family, {"other.weight": torch.zeros(1)})


class Fused:
    """A family whose experts are one tensor here and several, transposed, on the hub."""

    def hub_tensors(self, name, tensor):
        if tensor.dim() == 3:
            return ((f"{name}.{expert}", matrix.T) for expert, matrix in enumerate(tensor))
        return iter([(name, tensor)])

    def is_frozen(self, hub_name):
        return False


def test_shapes_may_differ_and_nothing_is_copied() -> None:
    experts = torch.nn.Module()
    experts.up = torch.nn.Parameter(torch.arange(24.0).reshape(2, 3, 4))
    experts.bias = torch.nn.Parameter(torch.zeros(3))
    state = hub_state(Fused(), experts)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "up.0": (4, 3), "up.1": (4, 3), "bias": (3,),
    }  # fmt: skip
    assert torch.equal(state["up.1"], experts.up[1].T)
    load_hub_state(Fused(), experts, [("up.1", torch.ones(4, 3))])
    assert (experts.up[1] == 1.0).all() and float(experts.up[0].detach().sum()) == sum(range(12))


def test_positions_skip_padding(student: Path) -> None:
    family = open_family(str(student))
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1]])
    assert family.positions(mask)[0, 2:5].tolist() == [0, 1, 2]
    assert family.positions(mask)[1, [0, 1, 2, 4, 5]].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(family.positions(mask)[:, :3], family.positions(mask[:, :3]))


def test_features_stand_where_the_placeholder_was(student: Path) -> None:
    family = open_family(str(student))
    policy, spoken = family.load_policy(torch.float32), family.render_speech("why")
    at, features = spoken.index(family.audio_token_id), torch.randn(5, 64)
    embedded = family.embed_prompt(policy, spoken, features)
    around = [*spoken[:at], *spoken[at + 1 :]]
    assert torch.equal(embedded[at : at + 5], features)
    rest = torch.cat([embedded[:at], embedded[at + 5 :]])
    assert torch.equal(rest, family.embed_prompt(policy, around, None))


def test_a_family_is_a_folder_and_a_line(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other_family"
    package.mkdir()
    (package / "__init__.py").write_text("def open_checkpoint(path):\n    return ('other', path)\n")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(UserError, match=f"student.path {checkpoint}: family 'other' is not supported"):
        open_family(str(checkpoint))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.FAMILIES, "other", "other_family")
    assert open_family(str(checkpoint)) == ("other", str(checkpoint))
    assert open_family(str(student)).name == "qwen2_audio"
    with pytest.raises(UserError, match=r"student\.family is 'qwen2_audio', but .* says 'other'; correct one of them"):
        open_family(str(checkpoint), "qwen2_audio")
    with pytest.raises(UserError, match=r"student\.family 'nothing' is not supported; supported: other, qwen2_audio"):
        open_family(str(checkpoint), "nothing")
