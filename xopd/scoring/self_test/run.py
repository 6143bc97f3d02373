"""A self-test of every teacher before the first step: each pod is asked by itself, a dozen or two small requests.

What would make training follow noise ends the run with a sentence; what may be wanted is told as a warning. A pod that
goes away meanwhile, or is too slow, is passed over: others, or itself later, answer for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xopd.errors import UserError
from xopd.scoring.client import TeacherClient
from xopd.scoring.replicas import REPLICA_TOLERANCE
from xopd.scoring.self_test.answers import Answer, Decode, check_end_of_turn, check_thinking
from xopd.scoring.self_test.asking import Asking, Ids, PodAwayError, Scores
from xopd.scoring.self_test.findings import Finding, SelfTest
from xopd.scoring.self_test.scores import Question, apart, check_scores, read_together

MOST_PROMPTS = 4
MOST_TOKENS = 64
"""Of an answer: enough for a direct one to end."""
MOST_SCORED_TOKENS = 32
"""Of an answer, where it is scored."""
PHASE_S = 120.0
"""Longest time that a pod may take to answer, and again to score (seconds)."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Trial:
    """What teachers are tested with."""

    prompts: Sequence[Ids]
    """Some real prompts x_t, as the teacher's template writes them."""
    stop_token_ids: Ids
    """The student's, its end of turn first."""
    top_k: int
    """Most probable tokens that the method asks for."""
    max_new_tokens: int
    """Of an answer in an evaluation."""
    decode: Decode


async def self_test(client: TeacherClient, trial: Trial) -> SelfTest:
    """Test each pod that takes calls now; takes at most two times PHASE_S.

    Raises:
        UserError: if a pod gives fewer most probable tokens than are asked for, if its scores change with how they are
            asked for, cannot be right, or differ from another pod's.
    """
    pods = {pod.address: Asking(pod, client.deadline_s) for pod in client.admitted()}
    findings = [_check_top_k(asking, trial.top_k) for asking in pods.values()]
    limit = min(trial.max_new_tokens, MOST_TOKENS)
    prompts = _fitting(list(pods.values()), trial.prompts, limit)
    if not prompts:
        away = dict.fromkeys(pods, f"none of the first prompts leaves room for {2 * limit} tokens more")
        return _by_pod([*findings, *_passed_over(away)])

    async def _answers(asking: Asking) -> list[Answer]:
        generated = await asyncio.gather(*(asking.answer(p, limit, trial.stop_token_ids) for p in prompts))
        return [Answer.of(prompt, one) for prompt, one in zip(prompts, generated, strict=True)]

    answers, away = await _of_each(pods, _answers)
    if answers:
        # Every pod is asked the same: the first one's answers to these prompts, and to those beside them.
        questions = _questions(answers[min(answers)], list(pods.values()))

        async def _rest(asking: Asking) -> tuple[list[Finding], list[Scores]]:
            own = answers[asking.pod.address]
            together = await read_together(asking, questions)
            found = await check_scores(asking, questions, together)
            found.append(await check_end_of_turn(asking, own, trial.stop_token_ids, limit, trial.decode))
            return [*found, check_thinking(asking.pod.address, own, trial.decode)], together

        rest, later_away = await _of_each({address: pods[address] for address in answers}, _rest)
        away |= later_away
        findings += [finding for found, _ in rest.values() for finding in found]
        findings += _check_replicas({address: together for address, (_, together) in rest.items()})
    return _by_pod([*findings, *_passed_over(away)])


async def _of_each(
    pods: Mapping[str, Asking], ask: Callable[[Asking], Awaitable[Found]]
) -> tuple[dict[str, Found], dict[str, str]]:
    """What `ask` gives for each pod by address, and why it gave nothing for the others.

    Raises:
        UserError: if `ask` does for one; the others are not waited for.
    """
    found: dict[str, Found] = {}
    away: dict[str, str] = {}

    async def _one(address: str, asking: Asking) -> None:
        try:
            with asking.pod.held():
                async with asyncio.timeout(PHASE_S):
                    found[address] = await ask(asking)
        except PodAwayError as error:
            away[address] = str(error)
        except TimeoutError:
            away[address] = f"it took longer than {PHASE_S:g} s"

    try:
        async with asyncio.TaskGroup() as group:
            for address, asking in pods.items():
                group.create_task(_one(address, asking))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return dict(sorted(found.items())), away


def _fitting(pods: Sequence[Asking], prompts: Sequence[Ids], limit: int) -> list[Ids]:
    """The first prompts, without repetition, that leave every pod room for two answers of `limit` tokens."""
    limits = [asking.info.limits for asking in pods]
    room = min((min(each.max_context_tokens, each.max_tokens_per_request) for each in limits), default=0)
    distinct: dict[Ids, None] = dict.fromkeys(tuple(prompt) for prompt in prompts)
    return [prompt for prompt in distinct if len(prompt) + 2 * limit <= room][:MOST_PROMPTS]


def _questions(answers: Sequence[Answer], pods: Sequence[Asking]) -> list[Question]:
    """Each prompt with its own answer and another: that to the next prompt, or a part of its own."""
    at_once = min(asking.info.limits.max_responses_per_request for asking in pods)
    questions = []
    for answer, following in zip(answers, [*answers[1:], answers[0]], strict=True):
        own, other = answer.token_ids[:MOST_SCORED_TOKENS], following.token_ids[:MOST_SCORED_TOKENS]
        if other == own:
            other = own[: max(1, len(own) // 2)]
        questions.append(Question(answer.prompt, [own, other][:at_once]))
    return questions


def _check_top_k(asking: Asking, top_k: int) -> Finding:
    limit = asking.info.limits.max_top_k
    if top_k > limit:
        raise UserError(
            f"teacher {asking.pod.address}: the method needs its {top_k} most probable tokens, and it gives {limit} at"
            " most: raise teacher.max_top_k where it runs, or lower objective.top_k."
        )
    sentence = f"gives its {limit} most probable tokens at most, {top_k} are needed"
    return Finding(asking.pod.address, "top_k", "ok", float(limit), sentence)


def _check_replicas(read: Mapping[str, Sequence[Scores]]) -> list[Finding]:
    """Hold every pod's scores of the same requests against the first one's, by address."""
    first = min(read, default="")
    findings = []
    for address, scores in read.items():
        if address == first:
            continue
        difference = apart(read[first], scores)
        if difference.mean > REPLICA_TOLERANCE:
            raise UserError(
                f"teacher {address}: its log-probabilities of the first items differ from those of {first} by"
                f" {difference}, {REPLICA_TOLERANCE:g} in the mean is allowed: serve the same checkpoint everywhere."
            )
        sentence = f"its scores differ from those of {first} by {difference}"
        findings.append(Finding(address, "replicas", "ok", difference.mean, sentence))
    return findings


def _passed_over(away: Mapping[str, str]) -> list[Finding]:
    return [Finding(address, "tested", "warning", None, f"was not tested: {why}") for address, why in away.items()]


def _by_pod(findings: Sequence[Finding]) -> SelfTest:
    return SelfTest(tuple(sorted(findings, key=lambda finding: finding.pod)))
