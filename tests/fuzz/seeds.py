"""One decoder a message, and small good messages of each kind: what fuzzing starts from.

`python -m tests.fuzz.seeds` writes them into `corpus/`, as the fuzz target reads them: a byte that chooses the decoder,
then the message.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from xopd.scoring.answers import read_generated, read_scores
from xopd.scoring.errors import BadAnswerError
from xopd.v1 import teacher_pb2, weights_pb2
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import (
    WireError,
    decode_pod_status,
    decode_prompt_group,
    decode_run_info,
    decode_trajectory_group,
    decode_weight_manifest,
)

CORPUS = Path(__file__).resolve().parent / "corpus"
DECODERS: dict[str, Callable[[bytes], Message]] = {
    "prompt_group": decode_prompt_group,
    "trajectory_group": decode_trajectory_group,
    "weight_manifest": decode_weight_manifest,
    "run_info": decode_run_info,
    "pod_status": decode_pod_status,
}
SCORE = teacher_pb2.ScoreRequest(
    protocol=1,
    request_id="train-000001-item-text",
    prompt_token_ids=[1, 2, 3],
    responses=[teacher_pb2.TokenSequence(token_ids=[4, 5]), teacher_pb2.TokenSequence(token_ids=[6])],
    top_k=2,
)
GENERATE = teacher_pb2.GenerateRequest(protocol=1, prompt_token_ids=[1, 2], max_new_tokens=4)
_IDS = {"protocol": 1, "run_id": "demo-0123456789ab", "group_id": "train-000001-item-text", "item_id": "item"}
_SAMPLING = pb.Sampling(temperature=1.0, max_new_tokens=48, stop_token_ids=[258])
_SHA256 = "0123456789abcdef" * 4
SEEDS: dict[str, list[Message]] = {
    "prompt_group": [
        pb.PromptGroup(
            **_IDS, modality=pb.MODALITY_TEXT, purpose=pb.PURPOSE_TRAIN, step=1, prompt_token_ids=[257, 5, 300, 70000],
            seeds=[11, 2**31 - 1], sampling=_SAMPLING, attempt=1, dispatched_at=1.7e9, traceparent="00-ab-cd-01",
        ),
        pb.PromptGroup(
            **_IDS, modality=pb.MODALITY_SPEECH, purpose=pb.PURPOSE_EVAL, prompt_token_ids=[260], seeds=[0],
            audio=pb.AudioRef(uri="/world/data/audio/a.flac", sha256=_SHA256), sampling=_SAMPLING,
            min_policy_version=3, max_policy_version=3,
        ),
    ],
    "trajectory_group": [
        pb.TrajectoryGroup(
            **_IDS, modality=pb.MODALITY_TEXT, purpose=pb.PURPOSE_TRAIN, step=1, pod_id="pod", started_at=1.7e9,
            finished_at=1.7e9,
            trajectories=[
                pb.Trajectory(
                    index=index, seed=11 + index, token_ids=[7, 258], logprobs=[-0.25, -1.5], policy_versions=[2, 2],
                    finish_reason=pb.FINISH_REASON_STOP,
                )
                for index in range(2)
            ],
        ),
        pb.TrajectoryGroup(**_IDS, pod_id="pod", failure=pb.Failure(code=pb.FAILURE_CODE_BAD_ITEM, reason="missing")),
    ],
    "weight_manifest": [
        weights_pb2.WeightManifest(
            protocol=1, run_id="demo", version=7, kind=weights_pb2.WEIGHT_KIND_FULL, uri="file:///weights/demo-v7",
            sha256=_SHA256, size_bytes=4096, tensor_count=24, published_at=1.7e9, transport="store",
        )
    ],
    "run_info": [
        weights_pb2.RunInfo(
            protocol=1, run_id="demo-0123", run_name="demo", student="checkpoints/student",
            vocabulary_fingerprint=_SHA256, started_at=1.7e9,
        )
    ],
    "pod_status": [
        weights_pb2.PodStatus(
            protocol=1, pod_id="pod", run_id="demo", policy_version=-1, engine="vllm", engine_version="0.32.0",
            url="http://127.0.0.1:8080", in_flight_groups=3, generated_tokens=99, busy_seconds=1.5, beat_at=1.7e9,
        )
    ],
    "scores": [
        teacher_pb2.ScoreResponse(
            request_id=SCORE.request_id, model="teacher", queue_seconds=0.01, compute_seconds=0.1,
            scores=[
                teacher_pb2.ResponseLogprobs(
                    logprobs=[-0.5] * n, top_token_ids=[4, 9] * n, top_logprobs=[-0.5, -2.0] * n,
                    tail_logprobs=[-3.0] * n,
                )
                for n in (2, 1)
            ],
        )
    ],
    "generated": [teacher_pb2.GenerateResponse(token_ids=[5, 258], logprobs=[-0.5, -0.25])],
}  # fmt: skip
KINDS = tuple(SEEDS)
"""The decoder of a fuzz input is its first byte, counted through these."""
REFUSALS = (WireError, BadAnswerError)
"""What a decoder may raise."""


def decode_any(kind: str, data: bytes) -> Any:
    """Read `data` as `kind`; a teacher's answer is parsed by gRPC, and then held against what was asked."""
    if kind in DECODERS:
        return DECODERS[kind](data)
    parse = teacher_pb2.ScoreResponse if kind == "scores" else teacher_pb2.GenerateResponse
    try:
        response: Any = parse.FromString(data)
    except Exception:
        return None  # gRPC would not hand it on
    return read_scores(SCORE, response, "teacher", 300) if kind == "scores" else read_generated(GENERATE, response, 300)


def corpus() -> dict[str, bytes]:
    """File name to contents."""
    return {
        f"{kind}-{index}": bytes([KINDS.index(kind)]) + message.SerializeToString(deterministic=True)
        for kind, messages in SEEDS.items()
        for index, message in enumerate(messages)
    }


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for name, contents in corpus().items():
        (CORPUS / name).write_bytes(contents)
