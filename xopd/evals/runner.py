"""An evaluation: ask a model the items of each part, and grade what it answers.

The asker knows who is asked and how, the grader what is right. An answer that was cut off at the longest length is not
right, whatever it holds so far, and an item without an answer is wrong: each score comes with how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xopd.data.items import Item
from xopd.errors import UserError
from xopd.evals.asking import Asker, Progress, Question
from xopd.evals.graders.registry import Grader
from xopd.evals.parts import Part
from xopd.evals.verdicts import Evaluation, Verdict


async def evaluate(
    what: str,
    items: Sequence[Item],
    parts: Sequence[Part],
    asker: Asker,
    grader: Grader,
    text_of: Callable[[Sequence[int]], str],
    digest: Callable[[Item], str],
    progress: Progress,
) -> Evaluation:
    """Verdicts by part, each part's in the order of its items.

    Args:
        what: is evaluated, for messages: `the base evaluation`.
        items: of any kind; a part asks those of its own.
        parts: what is asked.
        asker: of the policy that is evaluated.
        grader: says what is right.
        text_of: a response as text, from its token ids [T].
        digest: of an item and of what is asked with it, kept in each verdict.
        progress: told how many of all questions are answered.

    Raises:
        UserError: if the asker cannot go on, or no item of a part is answered: a score would tell of what was asked
            with, not of the policy.
    """
    asked = [(part, Question(item, part.modality)) for part in parts for item in items if item.kind == part.kind]
    answers = await asker.ask([question for _, question in asked], progress)
    verdicts: dict[str, list[Verdict]] = {part.name: [] for part in parts}
    for (part, question), answer in zip(asked, answers, strict=True):
        item = question.item
        response = "" if answer.fault else text_of(answer.token_ids)
        correct = not answer.fault and not answer.cut and grader.grade(response, item)
        verdicts[part.name].append(Verdict(item.id, response, correct, answer.cut, answer.fault, digest(item)))
    for name, found in verdicts.items():
        _assert_answered(f"{what} of {name}", found)
    return Evaluation(verdicts)


def _assert_answered(what: str, verdicts: Sequence[Verdict]) -> None:
    if verdicts and all(verdict.fault for verdict in verdicts):
        raise UserError(
            f"{what} has no score: none of its {len(verdicts)} items was answered; the last reason was:"
            f" {verdicts[-1].fault.rstrip('.')}; put it right, then resume, or evaluate again."
        )
