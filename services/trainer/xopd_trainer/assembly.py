"""Open everything that a trainer stands on, in an order that finds a user's mistake before anything costs time."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
import torch
from transformers import AutoTokenizer

from xopd.checks.splits import check_splits, split_warnings
from xopd.config import Config
from xopd.data import load_items
from xopd.data.audio import AudioRules
from xopd.data.features import FeatureCache
from xopd.errors import UserError, first_line
from xopd.families import open_family
from xopd.families.checkpoint_files import check_weight_files
from xopd.ledger import Ledger, LedgerError, ledger_path
from xopd.prompts.vocabulary import describe_difference, vocabulary_of
from xopd.scoring import TeacherClient
from xopd.security import Credentials
from xopd.service.folders import ensure_writable
from xopd.streams import Keys, connect
from xopd.streams.ceiling import redis_ceiling
from xopd.streams.eviction import refuse_eviction
from xopd.telemetry import tracing
from xopd_trainer.learning.learner import Learner
from xopd_trainer.methods import make_method
from xopd_trainer.run import Trainer
from xopd_trainer.state.lease import TrainerLease, locked_folder
from xopd_trainer.state.summary import read_bounds

log = structlog.get_logger(__name__)


def ensure_folders(config: Config) -> None:
    """Find out whether the folders that a trainer writes can be written. Raises UserError where one cannot."""
    ensure_writable(Path(config.run.directory) / config.run.name, "run.directory")
    if config.weights.uri is not None:
        ensure_writable(config.weights.uri, "weights.uri")
    ensure_writable(config.student.feature_cache, "student.feature_cache")


@contextlib.asynccontextmanager
async def assembled(config: Config, credentials: Credentials) -> AsyncIterator[Trainer]:
    """Yield a trainer whose parts are connected and checked. `credentials` are its own: what it shows to teachers.

    Raises:
        UserError: for a bad dataset or checkpoint, an unreachable service, vocabularies that differ, or a second
            trainer of the same run.
    """
    folder = Path(config.run.directory) / config.run.name
    with locked_folder(folder):
        try:
            ledger = Ledger(ledger_path(folder))
        except LedgerError as error:
            raise UserError(f"{error}; bring back a copy, or begin the run anew.") from None
        with contextlib.closing(ledger):
            async with _assembled(config, credentials, ledger) as trainer:
                yield trainer


@contextlib.asynccontextmanager
async def _assembled(config: Config, credentials: Credentials, ledger: Ledger) -> AsyncIterator[Trainer]:
    if config.run.deterministic:
        torch.use_deterministic_algorithms(True)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    items = load_items(config.data.manifest, AudioRules.of(config.data).places)
    check_splits(config, items)
    for warning in split_warnings(config, items):
        log.warning("splits", warning=warning)
    read_bounds(config.evals.bounds)
    family = open_family(config.student.path, config.student.family)
    check_weight_files("student.path", Path(config.student.path))
    try:
        teacher_tokenizer = AutoTokenizer.from_pretrained(config.teacher.path, local_files_only=True)
    except Exception as error:  # a damaged file fails in its own library's way
        raise UserError(
            f"teacher.path {config.teacher.path}: its tokenizer cannot be loaded ({first_line(error)})."
        ) from None
    difference = describe_difference(family.vocabulary, vocabulary_of(teacher_tokenizer))
    if difference is not None:
        raise UserError(
            f"student.path and teacher.path have different vocabularies: {difference};"
            " choose a teacher with the student's vocabulary."
        )
    client = await connect(config.redis)
    # A new id for each life: answers to an earlier life's prompts can never be taken for ours.
    run_id = f"{config.run.name}-{uuid.uuid4().hex[:12]}"
    lease = TrainerLease(client, Keys(config.redis.prefix), run_id, config.redis.lease_s)
    try:
        await refuse_eviction(client, config.redis, redis_ceiling(config).bytes)
        # Now, before anything costs time; loading may take longer than a lease, so the run takes it once more.
        await lease.acquire(ledger.run_ids)
        async with (
            tracing(config, "trainer") as tracer,
            TeacherClient.from_settings(config.teacher, tracer, credentials) as teacher,
        ):
            await teacher.verify(
                family.vocabulary, 1 + max(config.sampling.max_new_tokens, config.evals.max_new_tokens)
            )
            encoder = family.load_audio_encoder(getattr(torch, config.student.dtype))
            features = FeatureCache(
                config.student.feature_cache,
                encoder,
                family.sample_rate,
                AudioRules.of(config.data, family),
                config.student.features_in_memory_gb,
                one_by_one=config.run.deterministic,
            )
            method = make_method(config, family.vocabulary.size)
            learner = Learner(config, family, features, method, tracer)
            trainer = Trainer(config, items, family, teacher_tokenizer, learner, teacher, ledger, lease, tracer)
            teacher.on_bad_answer = trainer.metrics.refused_scores.inc
            yield trainer
    finally:
        await client.aclose()
