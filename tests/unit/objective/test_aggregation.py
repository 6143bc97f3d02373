"""Means over a batch against Python loops, and what its micro-batches add up to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.objective.references import mean, random_lengths
from xopd.objective import Totals, mean_over_tokens

BOTH = pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])


@BOTH
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), responses=st.integers(1, 6), tokens=st.integers(1, 6))
def test_the_mean_is_the_one_of_the_loops(aggregation, seed, responses, tokens):
    lengths, mask = random_lengths(seed, responses, tokens)
    values = torch.randn(responses, tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = mean(values.tolist(), lengths, aggregation)
    for kind in (torch.bool, torch.int64, torch.float64):
        assert float(mean_over_tokens(values, mask.to(kind), aggregation)) == pytest.approx(expected, abs=1e-13)


@BOTH
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_micro_batches_add_up_to_the_batch(aggregation, seed, cut):
    lengths, mask = random_lengths(seed, 6, 5)
    values = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    totals = Totals(responses=6, tokens=sum(lengths))
    parts = [mean_over_tokens(values[s], mask[s], aggregation, totals) for s in (slice(0, cut), slice(cut, 6))]
    torch.testing.assert_close(sum(parts), mean_over_tokens(values, mask, aggregation), rtol=1e-12, atol=1e-13)


def test_the_two_aggregations_weigh_a_short_response_differently():
    values, mask = torch.tensor([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), torch.tensor([[1, 0, 0], [1, 1, 1]])
    assert float(mean_over_tokens(values, mask, "sequence_mean")) == 2.5
    assert float(mean_over_tokens(values, mask, "token_mean")) == 1.75
