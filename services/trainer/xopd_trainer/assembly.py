"""Open everything that a trainer stands on, in an order that finds a user's mistake before anything costs time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import torch
from transformers import AutoTokenizer

from xopd.config import Config
from xopd.data import load_items
from xopd.data.features import FeatureCache
from xopd.data.vocabulary import describe_difference, vocabulary_of
from xopd.errors import UserError
from xopd.families import open_family
from xopd.scoring import TeacherClient
from xopd.streams import connect
from xopd_trainer.learner import Learner
from xopd_trainer.methods import make_method
from xopd_trainer.summary import read_bounds
from xopd_trainer.trainer import Trainer


@contextlib.asynccontextmanager
async def assembled(config: Config) -> AsyncIterator[Trainer]:
    """Yield a trainer whose parts are connected and checked.

    Raises:
        UserError: for a bad dataset or checkpoint, an unreachable service, or vocabularies that differ.
    """
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    items = load_items(config.data.manifest)
    read_bounds(config.evals.bounds)
    family = open_family(config.student.path, config.student.family)
    try:
        teacher_tokenizer = AutoTokenizer.from_pretrained(config.teacher.path)
    except (OSError, ValueError) as error:
        raise UserError(f"teacher.path {config.teacher.path}: its tokenizer cannot be loaded ({error}).") from None
    difference = describe_difference(family.vocabulary, vocabulary_of(teacher_tokenizer))
    if difference is not None:
        raise UserError(
            f"student.path and teacher.path have different vocabularies: {difference};"
            " choose a teacher with the student's vocabulary."
        )
    client = await connect(config.redis)
    try:
        async with TeacherClient.from_settings(config.teacher) as teacher:
            await teacher.verify(family.vocabulary)
            encoder = family.load_audio_encoder(getattr(torch, config.student.dtype))
            features = FeatureCache(
                config.student.feature_cache, encoder, family.sample_rate, config.data.max_audio_seconds
            )
            method = make_method(config, family.vocabulary.size)
            learner = Learner(config, family, features, method)
            yield Trainer(config, items, family, teacher_tokenizer, learner, teacher, client)
    finally:
        await client.aclose()
