"""The shared-prefix forward pass against plain passes over prompt and response, values and gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model, Qwen3NextConfig, Qwen3NextModel

from xopd.forward import extend, left_padded, read_prompts, read_responses, text_positions

VOCABULARY = 31
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [30]]
RESPONSES = [(0, [8, 9, 7]), (0, [9]), (2, [3, 2, 3, 8, 4]), (1, [6, 2]), (0, [6])]
"""Each with the prompt that it follows; not in the prompts' order."""


@pytest.fixture
def decoder() -> Qwen2Model:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return Qwen2Model(config).double().eval()


def inputs_of(decoder, sequences, embedded: bool):
    tensors = [torch.tensor(sequence) for sequence in sequences]
    return [decoder.get_input_embeddings()(tensor) for tensor in tensors] if embedded else tensors


def shared(decoder, responses, embedded: bool, positions=text_positions):
    """(hidden states of the responses' tokens, each [tokens, hidden size]; the prefix)."""
    prompts, mask = left_padded(inputs_of(decoder, PROMPTS, embedded))
    prefix = read_prompts(decoder, prompts, mask, positions(mask))
    rows = torch.tensor([row for row, _ in responses])
    padded = torch.nn.utils.rnn.pad_sequence(inputs_of(decoder, [y for _, y in responses], embedded), batch_first=True)
    real = torch.arange(padded.shape[1]) < torch.tensor([[len(y)] for _, y in responses])
    hidden = read_responses(decoder, prefix, rows, padded, real)
    assert hidden.shape == (len(responses), padded.shape[1], 16)
    assert hidden.isfinite().all()
    return [row[kept] for row, kept in zip(hidden, real, strict=True)], prefix


def plain(decoder, responses):
    """The same from one pass over each prompt with its response."""
    found = []
    for row, response in responses:
        prompt = PROMPTS[row]
        hidden = decoder(torch.tensor([[*prompt, *response]])).last_hidden_state[0]
        found.append(hidden[len(prompt) - 1 : -1])
    return found


@pytest.mark.parametrize("embedded", [False, True])
def test_hidden_states_are_those_of_plain_passes(decoder: Qwen2Model, embedded: bool):
    found, _ = shared(decoder, RESPONSES, embedded)
    for ours, theirs in zip(found, plain(decoder, RESPONSES), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("embedded", [False, True])
def test_gradients_are_those_of_plain_passes(decoder: Qwen2Model, embedded: bool):
    """Those through the repeated cache included: the prompts' tokens get what all their responses send them."""
    weights = list(decoder.parameters())
    losses = [sum((h * h.detach().cos()).sum() for h in f) for f in (shared(decoder, RESPONSES, embedded)[0],
                                                                    plain(decoder, RESPONSES))]  # fmt: skip
    for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in losses), strict=True):
        # Qwen2's norms and rotary embedding compute in float32 whatever the dtype.
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_prefix_serves_several_passes_and_stays_as_it_is(decoder: Qwen2Model):
    _, prefix = shared(decoder, RESPONSES, False)
    keys = [layer.keys.clone() for layer in prefix.cache.layers]
    hidden = read_responses(decoder, prefix, torch.tensor([1]), torch.tensor([[6, 2]]), torch.ones(1, 2).bool())
    torch.testing.assert_close(hidden[0], plain(decoder, [(1, [6, 2])])[0])
    assert all(torch.equal(layer.keys, before) for layer, before in zip(prefix.cache.layers, keys, strict=True))


def test_responses_go_on_from_the_positions_that_the_caller_gives(decoder: Qwen2Model):
    """Rotary attention sees distances alone, so all positions may be moved, and not some."""
    moved, _ = shared(decoder, RESPONSES, False, lambda mask: text_positions(mask) + 7)
    for ours, theirs in zip(moved, plain(decoder, RESPONSES), strict=True):
        torch.testing.assert_close(ours, theirs)
    doubled, prefix = shared(decoder, RESPONSES, False, lambda mask: 2 * text_positions(mask))
    assert prefix.next_positions.tolist() == [5, 11, 1]
    assert max((a - b).abs().max() for a, b in zip(doubled, moved, strict=True)) > 1e-3


def test_several_position_axes_go_on_together():
    """As the multimodal rotary embedding of Qwen2.5-Omni has them: the same step on each axis."""
    seen = []

    class Decoder:
        def __call__(self, input_ids, position_ids, **kwargs):
            seen.append(position_ids)
            cache = type("Cache", (), {"layers": [], "reorder_cache": lambda self, rows: None})()
            return type("Out", (), {"last_hidden_state": torch.zeros(*input_ids.shape, 4), "past_key_values": cache})

    positions = torch.tensor([[[0, 1, 5], [0, 0, 1]], [[0, 3, 5], [0, 0, 1]]])
    prefix = read_prompts(Decoder(), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3), positions)
    read_responses(Decoder(), prefix, torch.tensor([1, 0, 0]), torch.zeros(3, 3, dtype=torch.int64), torch.ones(3, 3))
    assert seen[0] is positions
    assert seen[1].tolist() == 2 * [[[2, 3], [6, 7], [6, 7]]]


def test_token_by_token_gives_the_same(decoder: Qwen2Model):
    prompts, mask = left_padded(inputs_of(decoder, PROMPTS, False))
    prefix = read_prompts(decoder, prompts, mask, text_positions(mask))
    hidden, cache, positions = [prefix.last_hidden[0]], prefix.cache, prefix.next_positions
    for token in (8, 9):
        mask = torch.cat([mask, mask.new_ones(3, 1)], dim=1)
        states, cache = extend(decoder, cache, torch.full((3, 1), token), mask, positions[:, None])
        hidden.append(states[0, -1])
        positions = positions + 1
    torch.testing.assert_close(torch.stack(hidden), plain(decoder, [(0, [8, 9, 7])])[0])
    assert positions.tolist() == [5, 8, 3]


def test_a_recurrent_decoder_keeps_its_prefix():
    """Its layers hold states in dictionaries instead of keys and values."""
    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    decoder = Qwen3NextModel(config).eval()
    ids = torch.tensor([[3, 1, 4]])
    prefix = read_prompts(decoder, ids, torch.ones_like(ids), torch.arange(3)[None])
    twice = [
        read_responses(decoder, prefix, torch.tensor([0, 0]), torch.tensor([[8, 9, 7], [8, 2, 2]]), torch.ones(2, 3))
        for _ in range(2)
    ]
    torch.testing.assert_close(twice[0], twice[1])
    whole = decoder(torch.tensor([[3, 1, 4, 8, 9, 7]])).last_hidden_state[0, 2:-1]
    torch.testing.assert_close(twice[0][0], whole, atol=1e-4, rtol=1e-4)
