"""Parts of the teachers' self-test: how models begin that think first, and how far two readings are apart."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.self_tests import TOKENIZER, prompt
from xopd.scoring.self_test.answers import Answer, check_thinking
from xopd.scoring.self_test.scores import Apart, apart


@pytest.mark.parametrize(
    ("begins", "thinks"),
    [
        ("<think>", True), ("\n <thinking> well", True), ("<|thinking|>", True), ("<reasoning>", True),
        ("[THINK]", True), ("<seed:think>", True), ("<|channel|>analysis<|message|>", True),
        ("<|begin_of_thought|>", True), ("so </think> 7", True), ("I think so", False),
        ("<b>think</b>", False), ("thinking", False), ("", False),
        ("7 <thinker>", False), ("<|channel|>final", False), ("the tag is <think>", False),
    ],
)  # fmt: skip
def test_how_models_begin_that_think(begins: str, thinks: bool) -> None:
    answer = Answer(prompt("one"), TOKENIZER(begins + "x", add_special_tokens=False)["input_ids"], [])
    found = check_thinking("pod", [answer], TOKENIZER.decode)
    assert found.outcome == ("warning" if thinks else "ok"), found.sentence


def test_figures_of_two_readings() -> None:
    one = [[np.float32([-1, -2]), np.float32([-3])], [np.float32([-4])]]
    other = [[np.float32([-1, -2.5]), np.float32([-3])], [np.float32([-4.3])]]
    found = apart(one, other)
    assert (found.mean, found.largest) == (pytest.approx(0.2), pytest.approx(0.5))
    assert found.within(Apart(0.21, 0.51)) and not found.within(Apart(0.19, 0.6)) and not found.within(Apart(0.3, 0.4))
