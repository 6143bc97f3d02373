"""Put a run together: everything is opened and constructed here, and nothing is bound later."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch

from xopd.checks.splits import check_splits, split_warnings
from xopd.config import Config
from xopd.data import Item, load_items
from xopd.data.audio import AudioRules
from xopd.data.features import FeatureCache
from xopd.errors import UserError
from xopd.evals.graders.registry import grader_named
from xopd.families import ModelFamily, open_family
from xopd.families.checkpoint_files import check_weight_files
from xopd.ledger import Ledger, LedgerError, ledger_path
from xopd.prompts.conditionings import Conditionings
from xopd.prompts.vocabulary import describe_difference, open_teacher_tokenizer
from xopd.scoring import TeacherClient
from xopd.security import Credentials
from xopd.service.folders import ensure_writable
from xopd.streams import DeadLetters, Keys, WorkStream, connect
from xopd.streams.keys import TRAINER_GROUP
from xopd.streams.memory import redis_ceiling, refuse_eviction
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import Tracer, tracing
from xopd.v1 import weights_pb2
from xopd.weights.transports import make_sender
from xopd.wire import PROTOCOL
from xopd_trainer.dispatch.collector import Collector
from xopd_trainer.dispatch.dispatcher import Dispatcher
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Rejections
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.evaluation import Evaluator
from xopd_trainer.held_out import HeldOut
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.learning.learner import Learner
from xopd_trainer.methods import make_method
from xopd_trainer.probe import Prober
from xopd_trainer.run import Parts, Run
from xopd_trainer.state.history import History
from xopd_trainer.state.lease import TrainerLease, locked_folder
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.state.records import Records
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status, StatusKeeper
from xopd_trainer.state.summary import read_bounds
from xopd_trainer.step import StepRunner
from xopd_trainer.telemetry.metrics import TrainerMetrics

log = structlog.get_logger(__name__)


def ensure_folders(config: Config) -> None:
    """Find out whether the folders that a trainer writes can be written. Raises UserError where one cannot."""
    ensure_writable(Path(config.run.directory) / config.run.name, "run.directory")
    if config.weights.uri is not None:
        ensure_writable(config.weights.uri, "weights.uri")
    ensure_writable(config.student.feature_cache, "student.feature_cache")


@contextlib.asynccontextmanager
async def assembled(config: Config, credentials: Credentials) -> AsyncIterator[Run]:
    """Yield a run whose parts are connected and checked. `credentials` are its own: what it shows to teachers.

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
            async with _assembled(config, credentials, ledger) as run:
                yield run


@contextlib.asynccontextmanager
async def _assembled(config: Config, credentials: Credentials, ledger: Ledger) -> AsyncIterator[Run]:
    """Read what can be read, connect, load the models, and put the run together: a mistake is found in that order."""
    if config.run.deterministic:
        torch.use_deterministic_algorithms(True)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    items = load_items(config.data.manifest, AudioRules.of(config.data).places)
    check_splits(config, items)
    for warning in split_warnings(config, items):
        log.warning("splits", warning=warning)
    grader_named(config.evals.grader)
    read_bounds(config.evals.bounds)
    family, teacher_tokenizer = _open_models(config)
    metrics = TrainerMetrics()
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
            TeacherClient.from_settings(
                config.teacher, tracer, credentials, on_bad_answer=metrics.refused_scores.inc
            ) as teacher,
        ):
            await teacher.verify(
                family.vocabulary, 1 + max(config.sampling.max_new_tokens, config.evals.max_new_tokens)
            )
            learner = _load_learner(config, family, tracer)
            conditionings = Conditionings(family, teacher_tokenizer, config.rollout.max_model_len)
            parts = _parts(config, items, learner, conditionings, teacher, ledger, lease, metrics, tracer)
            yield Run(config, items, parts)
    finally:
        await client.aclose()


def _open_models(config: Config) -> tuple[ModelFamily, Any]:
    """The student's family and the teacher's tokenizer. Raises UserError where their vocabularies differ."""
    family = open_family(config.student.path, config.student.family)
    check_weight_files("student.path", Path(config.student.path))
    teacher_tokenizer, teacher_vocabulary = open_teacher_tokenizer(config.teacher.path)
    difference = describe_difference(family.vocabulary, teacher_vocabulary)
    if difference is not None:
        raise UserError(
            f"student.path and teacher.path have different vocabularies: {difference};"
            " choose a teacher with the student's vocabulary."
        )
    return family, teacher_tokenizer


def _load_learner(config: Config, family: ModelFamily, tracer: Tracer) -> LearnerHandle:
    """The policy with its optimiser, the clips' encoder, and the method."""
    encoder = family.load_audio_encoder(getattr(torch, config.student.dtype))
    features = FeatureCache(
        config.student.feature_cache,
        encoder,
        family.sample_rate,
        AudioRules.of(config.data, family),
        config.student.features_in_memory_gb,
        one_by_one=config.run.deterministic,
    )
    return LearnerHandle(Learner(config, family, features, make_method(config, family.vocabulary.size), tracer))


def _parts(
    config: Config,
    items: Sequence[Item],
    learner: LearnerHandle,
    conditionings: Conditionings,
    teacher: TeacherClient,
    ledger: Ledger,
    lease: TrainerLease,
    metrics: TrainerMetrics,
    tracer: Tracer,
) -> Parts:
    """The parts of a run, each made of those above it."""
    client, keys, run_id = lease.client, lease.keys, lease.run_id
    retry_policy = RetryPolicy(config.run.stall_timeout_s)
    files = RunFiles(config)
    status = Status(run=config.run.name, steps=config.run.steps)
    records = Records(files, status, metrics, ledger)
    dead = DeadLetters(client, keys.dead, run_id)

    info = weights_pb2.RunInfo(
        protocol=PROTOCOL,
        run_id=run_id,
        run_name=config.run.name,
        student=config.student.path,
        vocabulary_fingerprint=conditionings.family.vocabulary.fingerprint,
        started_at=time.time(),
    )
    publisher = Publisher(
        lease,
        make_sender(config, run_id),
        info,
        learner.publish,
        retry_policy,
        tracer,
        on_full_disk=metrics.outage_waits.inc,
        on_mended=records.mended,
    )
    dispatcher = Dispatcher(
        WorkStream(client, keys.prompts, "rollout", "trainer"),
        ledger,
        config.trainer.redispatch_after_s,
        config.trainer.max_attempts,
        retry_policy,
        tracer,
    )
    collector = Collector(
        WorkStream(client, keys.trajectories, TRAINER_GROUP, run_id),
        dispatcher,
        ledger,
        run_id,
        learner.vocabulary_size,
        dead,
        # While a group waits for its answer no step is learnt: the policy is the newest version still.
        on_policy_unavailable=publisher.mend,
        on_unreadable=metrics.unreadable.inc,
        on_refused=metrics.refused_answers.inc,
    )
    history = History(config, learner, ledger, files, status, metrics, collector.acknowledge_held)
    writer = GroupWriter(config, conditionings, run_id)
    scorer = GroupScorer(conditionings, teacher, learner.vocabulary_size)
    rejections = Rejections(dead, metrics.refused_items, config.data.manifest)
    grader = grader_named(config.evals.grader)
    evaluator = Evaluator(writer, dispatcher, conditionings, rejections, config.evals.max_new_tokens, grader)
    prober = Prober(writer, dispatcher, scorer, learner, config.trainer.overlap_top_k)
    held_out = HeldOut(config, items, evaluator, prober, teacher, files, status, records)
    steps = StepRunner(config, writer, dispatcher, teacher, scorer, learner, publisher, ledger, rejections, tracer)
    metrics.watch(
        lambda: status.phase == "training",
        lambda: publisher.version,
        lambda: dispatcher.unanswered,
        lambda: dispatcher.oldest_age_s,
    )
    return Parts(
        learner=learner,
        teacher=teacher,
        conditionings=conditionings,
        dispatcher=dispatcher,
        collector=collector,
        steps=steps,
        held_out=held_out,
        publisher=publisher,
        history=history,
        ledger=ledger,
        lease=lease,
        files=files,
        status=status,
        status_keeper=StatusKeeper(client, keys, status, publisher, ledger, teacher),
        records=records,
        metrics=metrics,
    )
