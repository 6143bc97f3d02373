"""Grading: what is cut off or missing is wrong and counted, and a score of nothing is no score."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from prometheus_client import Counter
from xopd_trainer.dispatch.dispatcher import GroupFailedError, PolicyMissingError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Rejections
from xopd_trainer.evaluation import Evaluator
from xopd_trainer.state.run_files import RunFiles

from xopd.data import AudioFile, Item
from xopd.errors import UserError
from xopd.evals.graders.registry import grader_named
from xopd.evals.verdicts import Evaluation
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import GeneratedResponse, UnscorableError
from xopd.v1 import trajectory_pb2 as pb

LONG = "long " * 200


def make_item(n: int, text: str = "", seconds: float = 1.0) -> Item:
    audio = AudioFile(uri=f"{n}.flac", sha256="0" * 64, seconds=seconds, sample_rate=16000)
    return Item(id=f"i{n}", family="f", split="test", text=text or f"say {n}", audio=audio, answer="four")


class Dead:
    async def add(self, *_: Any) -> None:
        return None


class Dispatcher:
    """Answers each group by its item's id: (text, finish reason), or a failure."""

    def __init__(self, family: Any, answers: dict[str, tuple[str, int] | str | GroupFailedError]) -> None:
        self.family, self.answers, self.asked = family, answers, 0

    async def submit(self, groups: list[pb.PromptGroup]) -> dict[str, asyncio.Future[pb.TrajectoryGroup]]:
        self.asked += len(groups)
        futures = {}
        for group in groups:
            futures[group.group_id] = future = asyncio.get_running_loop().create_future()
            answer = self.answers[group.item_id]
            if isinstance(answer, (str, GroupFailedError)):
                future.set_exception(GroupFailedError(answer) if isinstance(answer, str) else answer)
                continue
            ids = self.family.encode_response(answer[0])
            trajectory = pb.Trajectory(token_ids=ids if answer[1] == pb.FINISH_REASON_STOP else ids[:-1])
            trajectory.finish_reason = answer[1]
            future.set_result(pb.TrajectoryGroup(trajectories=[trajectory]))
        return futures


STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


@pytest.fixture
def evaluator(config, family):
    def _make(answers: dict[str, Any], grader: str = "final_answer") -> Evaluator:
        conditionings = Conditionings(family, family.tokenizer, config.rollout.max_model_len)
        rejections = Rejections(Dead(), Counter("refused", "", ["reason"], registry=None), "items.jsonl")
        writer = GroupWriter(config, conditionings, "run")
        longest, grader = config.evals.max_new_tokens, grader_named(grader)
        return Evaluator(writer, Dispatcher(family, answers), conditionings, rejections, longest, grader)

    return _make


def nothing(*_: int) -> None:
    return None


async def test_an_answer_that_was_cut_off_is_not_right(evaluator) -> None:
    answers = {"i0": ("answer four", STOP), "i1": ("answer four", LENGTH), "i2": ("answer five", STOP)}
    asked = evaluator(answers)
    items = [make_item(n) for n in range(3)]
    found = await asked.student("base", 0, 0, items, nothing)
    for part in ("speech", "text"):
        assert [(v.correct, v.cut) for v in found.verdicts[part]] == [(True, False), (False, True), (False, False)]
        scores = found.as_json()[part]
        assert (scores["accuracy"], scores["n"], scores["cut"], scores["unanswered"]) == (1 / 3, 3, 1, 0)


async def test_what_cannot_be_asked_or_answered_is_wrong_and_counted(evaluator) -> None:
    asked = evaluator({"i0": ("answer four", STOP), "i1": "the pods are gone", "i2": ("x", STOP), "i3": ("x", STOP)})
    items = [make_item(0), make_item(1), make_item(2, text=LONG), make_item(3, seconds=29.0)]
    found = await asked.student("base", 0, 0, items, nothing)
    speech, text = found.verdicts["speech"], found.verdicts["text"]
    assert [bool(v.fault) for v in speech] == [False, True, False, True]
    assert [bool(v.fault) for v in text] == [False, True, True, False]
    assert "the pods are gone" in speech[1].fault
    assert "item i2: its prompt has" in text[2].fault
    assert "with its clip of 29.0 s" in speech[3].fault
    assert found.as_json()["speech"]["unanswered"] == 2
    assert asked.dispatcher.asked == 6


async def test_an_evaluation_without_any_answer_has_no_score(evaluator) -> None:
    asked = evaluator({"i0": "engine said no", "i1": "engine said no"})
    with pytest.raises(UserError, match=r"evaluation of speech has no score: none of its 2 items .*: engine said no"):
        await asked.student("base", 0, 0, [make_item(0), make_item(1)], nothing)


class Teacher:
    """Answers `answer four`, cut off where it is told so; refuses where it is told so."""

    def __init__(self, family: Any, how: list[str]) -> None:
        self.family, self.how = family, iter(how)

    async def generate(self, *_: Any, **__: Any) -> GeneratedResponse:
        how = next(self.how)
        if how == "refused":
            raise UnscorableError("too long for me")
        ids = self.family.encode_response("answer four")
        ids = ids if how == "whole" else ids[:-1]
        return GeneratedResponse(np.asarray(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32))


async def test_the_teachers_answers_are_held_to_the_same(evaluator, family) -> None:
    asked = evaluator({})
    items = [make_item(n) for n in range(3)]
    found = await asked.teacher(Teacher(family, ["whole", "cut", "refused"]), items, nothing)
    assert [(v.correct, v.cut, v.fault) for v in found.verdicts["text"]] == [
        (True, False, ""), (False, True, ""), (False, False, "too long for me"),
    ]  # fmt: skip
    assert found.as_json()["text"]["unanswered"] == 1
    with pytest.raises(
        UserError, match=r"the teacher's evaluation of text has no score: none of its 1 items .* too long for me"
    ):
        await asked.teacher(Teacher(family, ["refused"]), items[:1], nothing)


async def test_an_evaluation_is_taken_over_only_where_it_asked_the_same(evaluator, config) -> None:
    asked = evaluator({"i0": ("answer four", STOP)})
    files = RunFiles(config)
    item = make_item(0)
    files.write_evaluation("base", await asked.student("base", 0, 0, [item], nothing))

    def _known(*items: Item, version: int = 0) -> Evaluation | None:
        return files.read_evaluation("base", {each.id: asked.asked(each, version) for each in items})

    assert _known(item) is not None
    assert _known(item.model_copy(update={"answer": "five"})) is None
    assert _known(item.model_copy(update={"text": "say five"})) is None
    assert _known(item, make_item(1)) is None
    assert _known(item, version=3) is None
    longer = evaluator({})
    longer.max_new_tokens += 1
    assert files.read_evaluation("base", {item.id: longer.asked(item, 0)}) is None
    other = evaluator({}, grader="exact_match")
    assert files.read_evaluation("base", {item.id: other.asked(item, 0)}) is None
    (files.folder / "evals" / "base.json").write_text('{"speech": [{"item')
    assert _known(item) is None


async def test_the_grader_of_the_configuration_judges(evaluator) -> None:
    answers = {"i0": ("answer four", STOP), "i1": ("Four.", STOP), "i2": ("four", LENGTH)}
    items = [make_item(n) for n in range(3)]
    found = await evaluator(answers, grader="exact_match").student("base", 0, 0, items, nothing)
    assert found.right("speech") == {"i0": False, "i1": True, "i2": False}


async def test_a_policy_that_no_pod_has_ends_the_evaluation(evaluator) -> None:
    asked = evaluator({"i0": PolicyMissingError("no pod has version 3"), "i1": ("answer four", STOP)})
    with pytest.raises(UserError, match=r"the dev evaluation cannot go on: no pod has version 3; see the pods' logs"):
        await asked.student("dev", 3, 3, [make_item(0), make_item(1)], nothing)
