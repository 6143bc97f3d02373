"""What a pod's own greedy answers tell: whether it ends its turn as the student does, and whether it thinks first.

Neither is refused: a teacher may end late, and a template that makes a teacher think may be wanted. Both mean that its
log-probabilities of the student's direct answers say little, so both are told before a run.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xopd.scoring.answers import GeneratedResponse
from xopd.scoring.self_test.asking import Asking, Ids
from xopd.scoring.self_test.findings import Finding, Outcome

Decode = Callable[[Ids], str]
"""Token ids to text, special tokens shown."""
NEGLIGIBLE = 0.01
"""Probability of the student's end of turn below which a teacher does not mean to end there."""
LAST_OF_PROMPT = 32
"""Tokens at a prompt's end in which a template may open a block for thinking."""
THINKS = re.compile(
    r"\s*(<\|?(begin_of_|start_of_)?(\w+:)?(think|thinking|thought|thoughts|reason|reasoning|analysis|scratchpad)\|?>"
    r"|\[(think|thinking|reasoning)\]|◁think▷|<\|channel\|>\s*(analysis|thought))",
    re.IGNORECASE,
)
"""How answers of models begin that think first, in several templates."""
CLOSES = re.compile(r"</(\w+:)?(think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A pod's own answer to a prompt."""

    prompt: Ids
    token_ids: list[int]
    logprobs: list[float]

    @classmethod
    def of(cls, prompt: Ids, generated: GeneratedResponse) -> Answer:
        """From what the pod generated."""
        return cls(prompt, generated.token_ids.tolist(), generated.logprobs.tolist())


async def check_end_of_turn(
    asking: Asking, answers: Sequence[Answer], stop_token_ids: Ids, limit: int, decode: Decode
) -> Finding:
    """Do the answers end with the student's end of turn, `stop_token_ids[0]`?

    Args:
        asking: asks the pod, for the end of turn's probability where another special token stands in its place.
        answers: of at most `limit` tokens, cut at any of `stop_token_ids`.
        stop_token_ids: of the student.
        limit: most tokens of an answer.
        decode: for words in the finding.

    Raises:
        PodAwayError: if the pod goes away meanwhile.
        UserError: if it answers what cannot be right.
    """
    end = stop_token_ids[0]
    specials = {token.token_id for token in asking.info.special_tokens} | set(stop_token_ids)
    places = [(answer, _other_end(answer, specials - {end}, decode)) for answer in answers]
    elsewhere = [(answer, at) for answer, at in places if at is not None]
    read = await asyncio.gather(
        *(asking.scores(answer.prompt, [[*answer.token_ids[:at], end]]) for answer, at in elsewhere)
    )
    unlikely = [
        (answer.token_ids[at], math.exp(answer.logprobs[at]), math.exp(scores[0][-1]))
        for (answer, at), scores in zip(elsewhere, read, strict=True)
        if scores[0][-1] < min(math.log(NEGLIGIBLE), answer.logprobs[at])
    ]
    ended = sum(answer.token_ids[-1] == end for answer in answers)
    empty = sum(answer.token_ids == [end] for answer in answers)
    word = repr(decode([end]))
    sentence = (
        f"ended {ended} of {len(answers)} of its answers with {word}, the student's end of turn, within {limit} tokens"
    )
    mismatch = "its chat template or its end of turn is not the student's"
    advice = f"{mismatch}: its scores of how responses end say nothing"
    outcome: Outcome = "warning"
    if len(unlikely) > ended:
        token, instead, probability = unlikely[0]
        sentence += (
            f"; where it puts {decode([token])!r} ({instead:.2g}) instead, {word} has a probability of"
            f" {probability:.2g}: {advice}"
        )
    elif empty == len(answers):
        sentence += f", and said nothing before: {advice}"
    elif ended == 0:
        sentence += f": either its answers are longer, or {mismatch}"
    else:
        outcome = "ok"
    return Finding(asking.pod.address, "end_of_turn", outcome, ended / len(answers), sentence)


def check_thinking(address: str, answers: Sequence[Answer], decode: Decode) -> Finding:
    """Do the answers begin by thinking, or do the prompts open a block for it?"""
    begun = [found for answer in answers if (found := _thinks(answer, decode))]
    share = len(begun) / len(answers)
    if not begun:
        sentence = f"began none of {len(answers)} of its answers by thinking"
        return Finding(address, "thinking", "ok", share, sentence)
    sentence = (
        f"began {len(begun)} of {len(answers)} of its answers by thinking ({begun[0]!r}): its scores of direct answers"
        " say little; give it a chat template without thinking, or serve a teacher that does not think"
    )
    return Finding(address, "thinking", "warning", share, sentence)


def _other_end(answer: Answer, specials: set[int], decode: Decode) -> int | None:
    """Where the answer first has a special token that may stand for its end; some mark by such that they think."""
    if _thinks(answer, decode):
        return None
    return next((at for at, token in enumerate(answer.token_ids) if token in specials), None)


def _thinks(answer: Answer, decode: Decode) -> str:
    """The words by which the answer, or the end of its prompt, says that it thinks; empty where it does not."""
    before, text = decode(answer.prompt[-LAST_OF_PROMPT:]), decode(answer.token_ids)
    opened = THINKS.search(before)
    if opened is not None and not before[opened.end() :].strip():
        return opened.group().strip()
    found = THINKS.match(text) or CLOSES.search(text)
    return found.group().strip() if found is not None else ""
