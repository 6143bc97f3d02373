"""A teacher with a padded output head, from its own process into the losses that read its distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.clips import rules
from tests.integration.teacher_process import TeacherProcess
from tests.random_models import make_student, make_teacher
from tests.unit.trainer.groups import make_group, make_learner, trained_state, with_objective
from tests.unit.trainer.naive import PlainTeacher
from xopd.config import Config
from xopd.data.features import FeatureCache
from xopd.families import open_family
from xopd.scoring import TeacherClient
from xopd.v1 import trajectory_pb2 as pb

PADDED_ROWS = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(teacher process, teacher's folder, student's folder): the student's language model is the teacher's."""
    folder = tmp_path_factory.mktemp("padded")
    checkpoint = make_teacher(folder / "teacher", padded_rows=PADDED_ROWS)
    student = make_student(folder / "student", language_model_of=checkpoint)
    process = TeacherProcess(folder / "process", checkpoint, max_top_k=1000)
    yield process.start(), checkpoint, student
    process.stop()


@pytest.mark.parametrize(
    "objective",
    [
        {"kl_estimator": "top_k", "top_k": 5},
        {"kl_estimator": "full"},
        *({"method": "gkd", "top_k": k, "beta": beta} for k in (5, 261) for beta in (0.0, 0.5, 1.0)),
    ],
    ids=str,
)
async def test_a_student_equal_to_it_learns_nothing(world, tmp_path, objective) -> None:
    """The student's head has no padding: whatever mass the teacher gave to its own would be something to learn."""
    process, checkpoint, student = world
    family = open_family(str(student))
    config = Config.model_validate(
        {
            "run": {"name": "padded", "directory": str(tmp_path), "steps": 2},
            "data": {"manifest": "items.jsonl"},
            "student": {"path": str(student)},
            "teacher": {"path": str(checkpoint)},
            # Adam with so large an epsilon steps by the gradient itself.
            "optimiser": {"epsilon": 1.0, "learning_rate": 1.0, "max_grad_norm": None},
        }
    )
    features = FeatureCache(tmp_path / "features", family.load_audio_encoder(torch.float32), 16000, rules("/"))
    learner = make_learner(with_objective(config, objective), family, features)
    top_k = learner.method.teacher_top_k
    groups = [make_group(family, pb.MODALITY_TEXT, None, seed) for seed in range(3)]
    async with TeacherClient([process.grpc]) as client:
        await client.verify(family.vocabulary)
        assert await client.max_top_k() == 261 >= top_k
        scored = []
        for group in groups:
            responses = [row.token_ids for row in group.trajectories]
            scores = await client.score(group.text_prompt_token_ids, responses, group.group_id, top_k=top_k)
            # As if the teacher had sampled them: the importance ratio is 1.
            rows = [
                replace(row, teacher=score, behaviour_logprobs=score.logprobs)
                for row, score in zip(group.trajectories, scores, strict=True)
            ]
            scored.append(replace(group, trajectories=tuple(rows)))
    outside = PlainTeacher(checkpoint).logprobs(groups[0], groups[0].trajectories[0]).exp()[:, 262:].sum(-1)
    assert outside.mean() > 0.5  # the padding would hold most of the probability
    before = trained_state(learner)
    result = learner.step(1, scored)
    assert float(np.abs(result.signals["text"].advantage_values()).max()) < 1e-5
    assert not result.skipped and result.grad_norm < 1e-5 and abs(result.loss) < 1e-5
    after = trained_state(learner)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-5
