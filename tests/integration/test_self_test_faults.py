"""The self-test against teachers with faults: each is refused or told in its own words, and no wait is endless."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from tests.integration.hostile_teacher import HostileTeacher
from tests.integration.self_tests import by_check, outcome_of, prompt
from xopd.errors import UserError
from xopd.scoring.self_test import run


def lower(response, by: float, indices=None) -> None:
    for index, score in enumerate(response.scores):
        if indices is None or index in indices:
            score.logprobs[:] = [value - by for value in score.logprobs]


def by_order(request, response) -> None:
    """The second response of a request gets another score than it would as the first."""
    lower(response, 0.3, [1])


def by_company(request, response) -> None:
    """A response that is alone in its request gets another score."""
    lower(response, 0.3 if len(request.responses) == 1 else 0.0)


class ByPrefix:
    """A cache that knows prompts by their beginning, and hands out what it holds of another: the first or the last."""

    def __init__(self, first_stays: bool) -> None:
        self.first_stays = first_stays
        self.held: dict[tuple[int, ...], tuple[int, ...]] = {}

    def __call__(self, request, response) -> None:
        beginning, rest = tuple(request.prompt_token_ids[:8]), tuple(request.prompt_token_ids[8:])
        lower(response, 0.3 if self.held.setdefault(beginning, rest) != rest else 0.0)
        if not self.first_stays:
            self.held[beginning] = rest


class Noise:
    """Each answer is another."""

    def __init__(self, scale: float) -> None:
        self.rng = random.Random(0)
        self.scale = scale

    def __call__(self, request, response) -> None:
        for score in response.scores:
            score.logprobs[:] = [value - self.scale * self.rng.random() for value in score.logprobs]


class Once:
    """One token of one answer is far off, now and then: the mean hardly shows it."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request, response) -> None:
        self.asked += 1
        if self.asked == 6:
            response.scores[0].logprobs[0] -= 2.5


REFUSED = {
    "noise": (lambda: Noise(0.3), "", "the same request, asked twice, got log-probabilities that differ by"),
    "a little noise in float32": (lambda: Noise(0.01), "float32", "the same request, asked twice,"),
    "once": (
        Once,
        "bfloat16",
        r"differ by [\d.]+ nats in the mean and 2.5 at most; 0.05 nats in the mean and 2 at most",
    ),
    "order": (lambda: by_order, "", "the same responses, in the opposite order, got"),
    "company": (lambda: by_company, "bfloat16", "the same responses, one request each, got"),
    "last stays": (lambda: ByPrefix(False), "", "the same request, after a prompt that begins alike, got"),
    "first stays": (
        lambda: ByPrefix(True),
        "",
        "the same tokens, some of them moved from the response to the prompt, got",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_scores_that_change_with_how_they_are_asked_for_are_refused(fault) -> None:
    make, dtype, words = REFUSED[fault]
    async with HostileTeacher(make()) as teacher:
        teacher.dtype = dtype
        with pytest.raises(UserError, match=words) as refused:
            await outcome_of(teacher)
        assert str(refused.value).startswith(f"teacher {teacher.address}: ") and "\n" not in str(refused.value)


async def test_what_rounding_makes_of_scores_passes() -> None:
    async with HostileTeacher(Noise(0.05)) as teacher:
        for teacher.dtype in ("", "bfloat16"):
            result = await outcome_of(teacher)
            (repeated,), (order,) = by_check(result)["repeated"], by_check(result)["order"]
            assert 0.001 < repeated.figure < 0.05 and 0.001 < order.figure < 0.05
            assert result.warnings == []


async def test_too_few_most_probable_tokens_are_refused() -> None:
    async with HostileTeacher() as teacher:
        assert (await outcome_of(teacher, top_k=8)).warnings == []
        with pytest.raises(
            UserError, match=rf"{teacher.address}: the method needs its 9 most .* gives 8 at most: raise"
        ):
            await outcome_of(teacher, top_k=9)
        assert teacher.asked > 0


async def test_scores_that_cannot_be_right_are_refused() -> None:
    def nan(_, response):
        response.scores[0].logprobs[0] = float("nan")

    class Honest(HostileTeacher):
        async def Score(self, request, context):  # noqa: N802
            await context.abort(grpc.StatusCode.INTERNAL, "the model gave a log-probability that is NaN")

    async with HostileTeacher(nan) as teacher:
        with pytest.raises(UserError, match=f"{teacher.address}: it answered what cannot be right .*nan cannot be a"):
            await outcome_of(teacher)
    async with Honest() as teacher:
        with pytest.raises(UserError, match=f"{teacher.address}: it cannot score the first items .*that is NaN"):
            await outcome_of(teacher)


async def test_replicas_that_differ_on_real_prompts_are_refused() -> None:
    """Although they told the same of the probe, or nothing."""
    async with HostileTeacher() as one, HostileTeacher(lambda _, response: lower(response, 0.09)) as two:
        (replicas,) = by_check(await outcome_of(one, two))["replicas"]
        assert replicas.figure == pytest.approx(0.09, abs=1e-6)
        two.spoil = lambda _, response: lower(response, 0.2)
        with pytest.raises(UserError, match=r"differ from those of .* by 0\.2 nats in the mean") as refused:
            await outcome_of(one, two)
        assert one.address in str(refused.value) and two.address in str(refused.value)


class Leaves(HostileTeacher):
    """Ends its server when it has scored so often."""

    def __init__(self, after: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__()
        self.after, self.code = after, code

    async def Score(self, request, context):  # noqa: N802
        if self.asked == self.after:
            await context.abort(self.code, "for a test")
        return await super().Score(request, context)


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "UNIMPLEMENTED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"]
)
@pytest.mark.parametrize("after", [0, 6])
async def test_a_pod_that_goes_away_meanwhile_is_passed_over(after, code) -> None:
    async with HostileTeacher() as stays, Leaves(after, grpc.StatusCode[code]) as leaves:
        result = await outcome_of(stays, leaves)
        of_leaving = [finding for finding in result.findings if finding.pod == leaves.address]
        assert [(f.check, f.outcome) for f in of_leaving] == [("tested", "warning"), ("top_k", "ok")][::-1]
        words = code.lower().replace("_", " ")
        assert of_leaving[1].sentence == f"was not tested: {words}, for a test"
        assert {f.check for f in result.findings if f.pod == stays.address} >= {"repeated", "order", "end_of_turn"}
        # Alone it leaves nothing to test, which is no reason not to begin: the run waits for teachers anyway.
        leaves.asked = 0
        assert [f.check for f in (await outcome_of(leaves)).warnings] == ["tested"]


async def test_a_busy_pod_is_asked_again() -> None:
    class Busy(HostileTeacher):
        refused = 0

        async def Score(self, request, context):  # noqa: N802
            if self.refused < 5:
                self.refused += 1
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("retry-after-ms", "20"),))
            return await super().Score(request, context)

    async with Busy() as busy:
        assert (await outcome_of(busy)).warnings == []
        assert busy.refused == 5


async def test_a_pod_that_takes_too_long_is_passed_over(monkeypatch) -> None:
    class Slow(HostileTeacher):
        async def Score(self, request, context):  # noqa: N802
            await asyncio.sleep(60)

    monkeypatch.setattr(run, "PHASE_S", 0.5)
    async with Slow() as slow, HostileTeacher() as stays:
        result = await outcome_of(slow, stays)
        (warning,) = result.warnings
        assert (warning.pod, warning.sentence) == (slow.address, "was not tested: it took longer than 0.5 s")


async def test_prompts_that_do_not_fit_are_left_out() -> None:
    long = [5] * 990
    async with HostileTeacher() as teacher:
        assert (await outcome_of(teacher, prompts=[long, prompt("one")])).warnings == []
        (warning,) = (await outcome_of(teacher, prompts=[long, long])).warnings
        assert warning.sentence == "was not tested: none of the first prompts leaves room for 32 tokens more"
        (warning,) = (await outcome_of(teacher, prompts=[])).warnings
        assert warning.check == "tested"


@pytest.mark.parametrize("answer", [[258], [111, 258], [111] * 64])
@pytest.mark.parametrize("at_once", [1, 8])
async def test_any_answers_and_limits_can_be_tested(answer, at_once, monkeypatch) -> None:
    """One token or many, one prompt or several, one response a request or more."""
    async with HostileTeacher() as teacher:
        teacher.answer, teacher.most_responses = answer, at_once
        for prompts in ([prompt("one")], [prompt("one"), prompt("one")], [[7]], None):
            result = await outcome_of(teacher, prompts=prompts, max_new_tokens=100)
            assert {f.check for f in result.findings} >= {"repeated", "order", "end_of_turn", "thinking"}
