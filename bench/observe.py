"""What a step costs beside the models: answers and scores decoded, checked, kept, hashed, collated, summed up.

    python -m bench.observe [--groups 256] [--samples 8] [--tokens 500] [--seed 0]

The default is a step of 2,048 responses of 500 tokens. Nothing is sampled, scored or learnt: the teacher's scores and
the policy's read-out are random. Each line is the processor time of the fastest of `--repeats` passes; the last one is
numpy's copy of what was decoded, the least that moving these bytes costs. The two digests are those of the step's
content in the ledger and of the signals' summary, so that two versions of the code can be held against each other.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from xopd_trainer.batch import ScoredGroup, collate_responses
from xopd_trainer.dispatch.judgement import judge
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.learning.signals import SignalCollector
from xopd_trainer.methods import PolicyReadout

from xopd.ledger import group_content
from xopd.scoring.answers import read_scores
from xopd.v1 import teacher_pb2
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import PROTOCOL, TokenScores, decode_trajectory_group

VOCABULARY, TOP_K, VERSION, MICRO_BATCH = 152_000, 8, 41, 4
T = TypeVar("T")


def score_messages(groups: int, samples: int, tokens: int, seed: int) -> list[bytes]:
    """What the teachers would send back, with `TOP_K` tokens a position."""
    rng = np.random.default_rng(seed)

    def _logprobs(*shape: int) -> NDArray[np.float32]:
        return -rng.exponential(2.0, shape).astype(np.float32)

    found = []
    for _ in range(groups):
        response = teacher_pb2.ScoreResponse()
        for _ in range(samples):
            ids = rng.integers(0, VOCABULARY, (tokens, TOP_K), dtype=np.int32)
            scores = TokenScores(_logprobs(tokens), ids, _logprobs(tokens, TOP_K), _logprobs(tokens))
            response.scores.append(scores.as_message())
        found.append(response.SerializeToString())
    return found


def messages(groups: int, samples: int, tokens: int, seed: int) -> tuple[list[pb.PromptGroup], list[bytes]]:
    """Prompt groups, and what the pods would send back."""
    rng = np.random.default_rng(seed)
    asked, answers = [], []
    for g in range(groups):
        seeds = list(range(samples))
        same = {"run_id": "bench", "group_id": f"g{g}", "item_id": f"i{g}", "step": 1}
        same |= {"modality": pb.MODALITY_TEXT, "purpose": pb.PURPOSE_TRAIN}
        group = pb.PromptGroup(**same, seeds=seeds, min_policy_version=VERSION, max_policy_version=VERSION)
        group.sampling.max_new_tokens = tokens
        asked.append(group)
        answer = pb.TrajectoryGroup(**same, protocol=PROTOCOL, pod_id="pod")
        for index in seeds:
            answer.trajectories.add(
                index=index,
                seed=index,
                token_ids=rng.integers(0, VOCABULARY, tokens),
                logprobs=-rng.exponential(2.0, tokens).astype(np.float32),
                policy_versions=np.full(tokens, VERSION),
                finish_reason=pb.FINISH_REASON_LENGTH,
            )
        answers.append(answer.SerializeToString())
    return asked, answers


def timed(what: str, repeats: int, work: Callable[[], T]) -> T:
    """Print the fastest of some passes, in milliseconds of processor time; return what the last one gave."""
    fastest = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        fastest = min(fastest, time.process_time() - began)
    print(f"{what:<10}{1e3 * fastest:>10,.1f} ms")
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("groups", 256), ("samples", 8), ("tokens", 500), ("seed", 0), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked, data = messages(options.groups, options.samples, options.tokens, options.seed)
    responses = options.groups * options.samples
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, seed {options.seed}")
    print(f"{responses:,} responses of {options.tokens} tokens, {sum(map(len, data)) / 1e6:.1f} MB on the wire")

    def _timed(what: str, work: Callable[[], T]) -> T:
        return timed(what, options.repeats, work)

    answers = _timed("decode", lambda: [decode_trajectory_group(each) for each in data])

    def _check() -> None:
        for answer, group in zip(answers, asked, strict=True):
            assert judge(answer, group, "bench", VOCABULARY).outcome == "accepted"

    _timed("check", _check)

    request = teacher_pb2.ScoreRequest(
        top_k=TOP_K, responses=[teacher_pb2.TokenSequence(token_ids=[0] * options.tokens)] * options.samples
    )
    sent = score_messages(options.groups, options.samples, options.tokens, options.seed)
    scored = _timed(
        "scores",
        lambda: [read_scores(request, teacher_pb2.ScoreResponse.FromString(each), "", VOCABULARY) for each in sent],
    )

    conditionings: Any = SimpleNamespace(teacher=lambda item: (1,), student=lambda item, modality, longest: (1,))
    teacher: Any = SimpleNamespace(score=None)
    scorer = GroupScorer(conditionings, teacher, VOCABULARY)
    groups: list[ScoredGroup] = []

    async def _keep() -> None:
        groups.clear()
        for answer, group, scores in zip(answers, asked, scored, strict=True):

            async def _score(*_: Any, scores: Any = scores, **__: Any) -> Any:
                return scores

            teacher.score = _score
            item: Any = SimpleNamespace(audio=None)
            groups.append(await scorer.sampled(item, group, answer, VERSION, TOP_K))

    _timed("keep", lambda: asyncio.run(_keep()))
    contents = _timed(
        "hash",
        lambda: [
            group_content(g.group_id, [(t.token_ids, t.behaviour_logprobs) for t in g.trajectories]) for g in groups
        ],
    )
    parts = [groups[i : i + MICRO_BATCH] for i in range(0, len(groups), MICRO_BATCH)]
    batches = _timed("collate", lambda: [collate_responses(part) for part in parts])
    generator = torch.Generator().manual_seed(options.seed)
    policies = []
    for batch in batches:
        noise = torch.rand(batch.mask.shape, generator=generator)
        assert batch.behaviour_logprobs is not None
        policies.append(PolicyReadout(batch.behaviour_logprobs - 0.01 * noise, None, noise, noise))

    def _signals() -> dict[str, Any]:
        signals = SignalCollector()
        for part, batch, policy in zip(parts, batches, policies, strict=True):
            signals.add(part, batch, policy)
        return signals.summary()

    summary = _timed("signals", _signals)
    rows = [
        np.asarray(values, kind)
        for answer in answers
        for t in answer.trajectories
        for values, kind in ((t.token_ids, np.int32), (t.logprobs, np.float32), (t.policy_versions, np.int64))
    ]
    _timed("copy", lambda: [row.copy() for row in rows])
    print("content", hashlib.sha256(b"".join(contents)).hexdigest()[:16])
    print("summary", hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()[:16])
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
