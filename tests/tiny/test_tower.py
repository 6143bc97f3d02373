"""The trimmed encoding is the full 30-second window's, for every valid frame."""

import numpy as np
import torch
from tinyworld.tower import Probe, encode, feature_extractor, new_tower
from tinyworld.tower_training import edit_distance, word_error_rate
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2Config


def test_trimmed_encoding_equals_transformers() -> None:
    tower, extractor = new_tower(0).eval(), feature_extractor()
    for parameter in tower.parameters():  # away from the tidy initial values
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (32_000, 40_077, 640 * 55, 16_480, 12_345)]
    text = Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                       num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    config = Qwen2AudioConfig(audio_config=tower.config.to_dict(), text_config=text.to_dict(), audio_token_index=5)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    inner = model.model
    inner.audio_tower.load_state_dict(tower.state_dict())
    full = extractor(clips, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    counts = [((int(n) - 1) // 2 + 1 - 2) // 2 + 1 for n in full.attention_mask.sum(-1)]
    ids = torch.full((1, sum(counts)), 5)
    captured = []
    handle = inner.audio_tower.register_forward_hook(lambda _m, _a, out: captured.append(out.last_hidden_state))
    with torch.no_grad():
        model(input_ids=ids, input_features=full.input_features, feature_attention_mask=full.attention_mask,
              attention_mask=torch.ones_like(ids))  # fmt: skip
    handle.remove()
    ours = encode(tower, extractor, clips)
    for output, whole, count in zip(ours, captured[0], counts, strict=True):
        assert output.shape == (count, 128)
        assert float(output.std()) > 0.1
        assert torch.allclose(output, whole[:count], atol=1e-4)


def test_batch_mates_do_not_matter() -> None:
    tower, extractor = new_tower(0).eval(), feature_extractor()
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (20_000, 48_000)]
    both, alone = encode(tower, extractor, clips), encode(tower, extractor, clips[:1])
    assert torch.allclose(both[0], alone[0], atol=1e-5)


def test_ctc_transcripts_drop_blanks_and_repeats() -> None:
    probe = Probe(3, ("one", "two"))
    torch.nn.init.zeros_(probe.words.bias)
    probe.words.weight.data = torch.eye(3)
    steps = torch.eye(3)[[0, 1, 1, 0, 1, 2, 2, 0, 2]][None]
    assert probe.transcripts(steps, torch.tensor([8])) == ["one one two"]


def test_word_errors() -> None:
    assert edit_distance(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert word_error_rate(["a b", "c d"], ["a b", "c"]) == 0.25
