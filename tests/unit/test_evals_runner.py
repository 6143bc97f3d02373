"""An evaluation without a trainer: any asker, any grader, any parts; verdicts by part in the order of the items."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from xopd.data import AudioFile, Item
from xopd.errors import UserError
from xopd.evals.asking import Answer, Progress, Question, TeacherAsker, gather_answers
from xopd.evals.graders.exact import ExactMatch
from xopd.evals.parts import PARTS, TEXT_PARTS, Part, first_of_each_kind
from xopd.evals.runner import evaluate
from xopd.evals.verdicts import Evaluation, Verdict
from xopd.v1 import trajectory_pb2 as pb

CLIP = AudioFile(uri="a.flac", sha256="0" * 64, seconds=1.0, sample_rate=16000)
SPOKEN, WRITTEN = pb.MODALITY_SPEECH, pb.MODALITY_TEXT


def item(name: str, kind: str = "task", answer: str = "ab") -> Item:
    return Item(id=name, family="f", split="test", kind=kind, text=name, audio=CLIP, answer=answer)


ITEMS = [item("t0"), item("r0", "retention"), item("t1", answer="c"), item("r1", "retention")]


class Scripted:
    """Answers by item and modality, as letters of the alphabet; what is not scripted is `ab`."""

    def __init__(self, answers: dict[tuple[str, int], Answer]) -> None:
        self.answers, self.asked = answers, []

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        self.asked = [(question.item.id, question.modality) for question in questions]

        async def _answer(key: tuple[str, int]) -> Answer:
            return self.answers.get(key, Answer([0, 1]))

        return await gather_answers([_answer(key) for key in self.asked], progress)


def letters(token_ids: Sequence[int]) -> str:
    return "".join("abc"[i] for i in token_ids)


async def run(asker: Scripted, parts: Sequence[Part] = PARTS, items: Sequence[Item] = ITEMS) -> Evaluation:
    told: list[tuple[int, int]] = []
    found = await evaluate(
        "the trial", items, parts, asker, ExactMatch(), letters, lambda each: f"#{each.id}", lambda *at: told.append(at)
    )
    assert told == [(n + 1, len(asker.asked)) for n in range(len(asker.asked))]
    return found


async def test_each_part_asks_its_own_items_in_its_own_form() -> None:
    asker = Scripted({("t1", WRITTEN): Answer([2]), ("r0", SPOKEN): Answer([0])})
    found = await run(asker)
    assert asker.asked == [
        ("t0", SPOKEN), ("t1", SPOKEN), ("t0", WRITTEN), ("t1", WRITTEN), ("r0", SPOKEN), ("r1", SPOKEN),
    ]  # fmt: skip
    assert list(found.verdicts) == ["speech", "text", "retention"]
    assert found.right("speech") == {"t0": True, "t1": False}
    assert found.right("text") == {"t0": True, "t1": True}
    assert found.right("retention") == {"r0": False, "r1": True}
    assert found.verdicts["text"][1] == Verdict("t1", "c", True, asked="#t1")


async def test_what_is_cut_or_missing_is_wrong_whatever_the_grader_says() -> None:
    asker = Scripted({("t0", WRITTEN): Answer([0, 1], cut=True), ("t1", WRITTEN): Answer(fault="no pod")})
    found = await run(asker, TEXT_PARTS, [*ITEMS, item("t2")])
    assert found.verdicts == {
        "text": [
            Verdict("t0", "ab", False, cut=True, asked="#t0"),
            Verdict("t1", "", False, fault="no pod", asked="#t1"),
            Verdict("t2", "ab", True, asked="#t2"),
        ]
    }
    assert {k: found.as_json()["text"][k] for k in ("n", "cut", "unanswered")} == {"n": 3, "cut": 1, "unanswered": 1}


async def test_a_part_of_faults_alone_has_no_score() -> None:
    asker = Scripted({(name, SPOKEN): Answer(fault=f"{name} is gone.") for name in ("r0", "r1")})
    with pytest.raises(UserError, match=r"^the trial of retention has no score: none of its 2 items .*: r1 is gone; "):
        await run(asker)


async def test_other_parts_than_the_usual_ones() -> None:
    found = await run(Scripted({}), [Part("voice", "retention", SPOKEN)])
    assert found.right("voice") == {"r0": True, "r1": True}
    assert await run(Scripted({}), PARTS, []) == Evaluation({"speech": [], "text": [], "retention": []})


def test_the_first_items_of_each_kind() -> None:
    assert [each.id for each in first_of_each_kind(ITEMS, 1)] == ["t0", "r0"]
    assert [each.id for each in first_of_each_kind(ITEMS, 9)] == ["t0", "t1", "r0", "r1"]


async def test_the_teacher_is_not_asked_by_voice() -> None:
    with pytest.raises(ValueError, match="by text only"):
        await TeacherAsker(None, None, 8, None).ask([Question(ITEMS[0], SPOKEN)], lambda *_: None)
