"""What a pod asks of a prompt before its engine sees it."""

from __future__ import annotations

import pytest
from xopd_rollout.contract import BadPromptError
from xopd_rollout.prompt_check import PromptCheck

from xopd.v1 import trajectory_pb2 as pb

AUDIO = 7
CHECK = PromptCheck(vocabulary_size=100, audio_token_id=AUDIO, max_model_len=20)


def sampling(new: int = 4, stop: tuple[int, ...] = ()) -> pb.Sampling:
    return pb.Sampling(temperature=1.0, max_new_tokens=new, stop_token_ids=stop)


@pytest.mark.parametrize(("tokens", "spoken"), [([0, 99], False), ([1, AUDIO, 2], True), ([1] * 16, False)])
def test_what_fits_is_taken(tokens, spoken):
    CHECK.check(tokens, spoken, sampling(stop=(0, 99)))


@pytest.mark.parametrize(
    ("tokens", "spoken", "asked", "reason", "words"),
    [
        ([], False, sampling(), "tokens", "the prompt is empty"),
        ([1] * 17, False, sampling(), "length", "leaves 3 of 20"),
        ([1] * 30, False, sampling(), "length", "leaves 0 of 20"),
        ([1, 100], False, sampling(), "tokens", "prompt token id 100 lies outside the vocabulary of 100"),
        ([-1], False, sampling(), "tokens", "prompt token id -1 lies outside"),
        ([1], False, sampling(stop=(100,)), "tokens", "stop token id 100 lies outside"),
        ([1], True, sampling(), "tokens", "holds 0 audio placeholders; 1 belong there"),
        ([AUDIO], False, sampling(), "tokens", "holds 1 audio placeholders; 0 belong there"),
        ([AUDIO, AUDIO], True, sampling(), "tokens", "holds 2 audio placeholders"),
    ],
)
def test_what_does_not_is_refused_by_name(tokens, spoken, asked, reason, words):
    with pytest.raises(BadPromptError, match=words) as caught:
        CHECK.check(tokens, spoken, asked)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("prompt", "audio", "new"), [([1, AUDIO, 2], 14, 4), ([1, AUDIO, 2], 1, 17), ([AUDIO], 16, 4)])
def test_a_clip_that_leaves_all_the_room_is_taken(prompt, audio, new):
    CHECK.check_clip(prompt, audio, sampling(new))


@pytest.mark.parametrize(
    ("audio", "new", "words"),
    [
        (15, 4, "a prompt of 17 tokens, 15 of them its clip's, leaves 3 of 20 .* for 4 new ones"),
        (17, 4, "leaves 1 of 20"),
        (18, 4, "leaves 0 of 20"),
        (750, 4, "leaves 0 of 20"),
        (0, 4, "gives no audio token"),
    ],
)
def test_a_clip_that_takes_an_answers_room_is_refused(audio, new, words):
    with pytest.raises(BadPromptError, match=words) as caught:
        CHECK.check_clip([1, AUDIO, 2], audio, sampling(new))
    assert caught.value.reason == "length"
