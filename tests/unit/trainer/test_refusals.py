"""Items that the trainer itself finds unusable are left out by name; the rest of the batch is kept."""

from __future__ import annotations

import soundfile
import torch
from xopd_trainer.batch import ScoredGroup
from xopd_trainer.dispatch.rejected import Rejections
from xopd_trainer.learning.learner import unusable_clips
from xopd_trainer.telemetry.metrics import ITEM_REASONS, TrainerMetrics

from tests.clips import rules, sha256_of, speechlike
from xopd.data.features import FeatureCache
from xopd.streams import DeadLetters


class Encoder:
    fingerprint = "f" * 64

    def encode(self, waves):
        return [torch.zeros(2, 4) for _ in waves]


def group(name: str, audio) -> ScoredGroup:
    return ScoredGroup(
        group_id=name, modality=2, prompt_token_ids=(1,), text_prompt_token_ids=(1,), audio=audio, trajectories=()
    )


def test_a_bad_clip_does_not_take_its_company_along(tmp_path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(0.2, 16000), 16000)
    groups = [
        group("good", (str(path), sha256_of(path))),
        group("gone", (str(tmp_path / "gone.wav"), "1" * 64)),
        group("elsewhere", ("/etc/passwd", "2" * 64)),
        group("text", None),
    ]
    features = FeatureCache(tmp_path / "features", Encoder(), 16000, rules(tmp_path))
    found = unusable_clips(features, groups)
    assert {name: error.reason for name, error in found.items()} == {"gone": "missing", "elsewhere": "place"}
    assert unusable_clips(features, [groups[0], groups[3]]) == {}
    assert features.encoded == 1


class NoRedis:
    async def xadd(self, *_, **__):
        raise ConnectionError("Redis is away")


async def test_a_refusal_is_counted_even_while_redis_is_away() -> None:
    metrics = TrainerMetrics()
    rejections = Rejections(DeadLetters(NoRedis(), "dead", "run"), metrics.refused_items, "items.jsonl")
    for fault in ITEM_REASONS:
        await rejections.note("item", fault, f"for its {fault}")
        series = metrics.registry.get_sample_value("xopd_trainer_refused_items_total", {"reason": fault})
        assert series == 1
    assert rejections.newest == "for its teacher"
