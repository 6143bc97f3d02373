"""From a response to a scored group: what is known of one that the policy did not sample."""

import numpy as np
import pytest
from xopd_trainer.dispatch.scored_groups import GroupScorer

from tests.unit.trainer.test_method_inputs import make_items
from xopd.prompts.conditionings import Conditionings
from xopd.v1 import trajectory_pb2 as pb


@pytest.mark.parametrize("ends", [True, False])
async def test_a_supplied_response_is_truncated_where_it_has_no_end(family, ends):
    """A teacher's response may have been cut at its limit."""
    conditionings = Conditionings(family, family.tokenizer, 512)
    [item] = make_items(1)
    tokens = np.array([5, 6, family.stop_token_ids[-1] if ends else 7], dtype=np.int64)
    scorer = GroupScorer(conditionings, None, family.vocabulary.size)
    group = await scorer.supplied(item, pb.MODALITY_TEXT, "g", tokens, None)
    assert group.trajectories[0].truncated is not ends
