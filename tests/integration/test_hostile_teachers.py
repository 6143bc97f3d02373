"""Teachers that answer NaN, too little, or for another model: never trained on, and a good one beside them suffices."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.integration.hostile_teacher import HostileTeacher
from tests.random_models import make_tokenizer
from xopd.errors import UserError
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient, UnscorableError
from xopd.scoring.client import MOST_BAD_ANSWERS

STUDENT = vocabulary_of(make_tokenizer())


def nan(_, response):
    response.scores[0].logprobs[0] = float("nan")


def too_few(_, response):
    del response.scores[0].logprobs[-1]


def none(_, response):
    del response.scores[:]


def positive(_, response):
    response.scores[0].logprobs[0] = 3.0


def other_request(_, response):
    response.request_id = "somebody else's"


def other_model(_, response):
    response.model = "another model"


def endless_wait(_, response):
    response.queue_seconds = float("inf")


SPOILS = {
    nan: "nan cannot be a log-probability",
    too_few: "3 log-probabilities were wanted, 2 came",
    none: "1 responses were sent, 0 scores came",
    positive: "cannot be a log-probability",
    other_request: 'the teacher answered "somebody else\'s"',
    other_model: "'another model' answered, the pod says that it serves 'right'",
    endless_wait: "took a time that is none",
}


def client_of(*teachers, **settings):
    return TeacherClient([t.address for t in teachers], **{"attempts": 4, "retry_limit_s": 20.0, **settings})


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
async def test_a_bad_answer_is_refused_counted_and_had_from_another_pod(spoil) -> None:
    async with HostileTeacher(spoil) as bad, HostileTeacher() as good:
        async with client_of(bad) as client:
            counted = []
            client.on_bad_answer = lambda: counted.append(1)
            await client.verify(STUDENT)
            with pytest.raises(UnscorableError, match=SPOILS[spoil]):
                await client.score([1, 2], [[3, 4, 5]], "r")
            assert client.counters.bad_answers == len(counted) == bad.asked == MOST_BAD_ANSWERS
            # The pod takes calls again: another request may be answered rightly.
            bad.spoil = None
            (score,) = await client.score([1, 2], [[3, 4, 5]], "r")
            assert score.logprobs.tolist() == [-0.5] * 3
            bad.spoil = spoil
        async with client_of(bad, good) as client:
            await client.verify(STUDENT)
            for _ in range(4):
                (score,) = await client.score([1, 2], [[3, 4, 5]], "r")
                assert score.logprobs.tolist() == [-0.5] * 3


async def test_a_teacher_that_says_itself_that_it_has_nan() -> None:
    """The service's own guard answers INTERNAL; see validation and service of the teacher."""

    class Honest(HostileTeacher):
        async def Score(self, request, context):  # noqa: N802
            self.asked += 1
            await context.abort(grpc.StatusCode.INTERNAL, "the model gave a log-probability that is NaN")

    async with Honest() as honest, client_of(honest) as client:
        await client.verify(STUDENT)
        with pytest.raises(UnscorableError, match="that is NaN"):
            await client.score([1], [[2]], "r")
        assert honest.asked == client.counters.bad_answers == MOST_BAD_ANSWERS


async def test_a_pod_swapped_for_another_vocabulary_behind_the_same_address() -> None:
    async with (
        HostileTeacher() as swapped,
        HostileTeacher() as good,
        client_of(swapped, good, retry_limit_s=3) as client,
    ):
        await client.verify(STUDENT)
        await client.score([1], [[2]], "r")
        swapped.vocabulary = vocabulary_of(make_tokenizer("<|tool|>"))
        for _ in range(6):
            await client.score([1], [[2]], "r")
        async with asyncio.timeout(20):
            while all(pod["ok"] for pod in await client.describe()):
                await client.score([1], [[2]], "r")
        about = {pod["endpoint"]: pod for pod in await client.describe()}
        assert about[good.address]["ok"]
        async with asyncio.timeout(20):
            while "<|tool|>" not in about[swapped.address]["problem"]:
                await asyncio.sleep(0.02)
                about = {pod["endpoint"]: pod for pod in await client.describe()}
        # Left alone with it, the run ends with a sentence that names the difference.
        await good.server.stop(None)
        with pytest.raises(UserError, match=r"<\|tool\|>"):
            await client.score([1], [[2]], "r")


async def test_a_pod_swapped_for_another_model_of_the_same_vocabulary() -> None:
    async with HostileTeacher() as swapped, client_of(swapped) as client:
        await client.verify(STUDENT)
        swapped.spoil = other_model  # the answers change first: Info is asked now and then
        swapped.model = "another model"
        with pytest.raises(UserError, match="serves another model, this run's teacher is right"):
            await client.score([1], [[2]], "r")


async def test_two_teachers_of_different_models_are_no_teacher() -> None:
    async with HostileTeacher() as one, HostileTeacher(model="other") as two, client_of(one, two) as client:
        with pytest.raises(UserError, match=r"serves .*, this run's teacher is"):
            await client.verify(STUDENT)
