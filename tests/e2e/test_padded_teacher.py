"""Whole runs with a teacher whose output head has more rows than there are tokens, by methods that read all of them."""

from __future__ import annotations

import pytest

from tests.e2e.world import make_world

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.mark.parametrize(
    "objective", [{"kl_estimator": "full"}, {"method": "gkd", "top_k": 261}, {"method": "gkd", "top_k": 16}], ids=str
)
def test_a_student_equal_to_it_has_nothing_to_learn(tmp_path, start, objective):
    """Text only. Mass that the teacher gave to its padding would be a loss, and a group given up."""
    config = make_world(
        tmp_path,
        padded_rows=64,
        objective={"lambda": 0.0, **objective},
        teacher={"max_top_k": 1000},
        evals={"every": 0},
        run={"steps": 2},
    )
    run = start(config, "--set", "optimiser.learning_rate=1e-12")
    assert run.wait(420) == 0, run.text()
    counts = run.summary()["trajectories"]
    assert counts["trained"] == counts["dispatched"] == 2 * 4 * 4 and counts["given_up"] == 0
    for step in run.steps():
        assert abs(step["loss"]) < 1e-5
        assert step["text"]["tokens"] > 50
