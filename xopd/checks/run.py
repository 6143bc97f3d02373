"""The checks of `xopd check`, one method each; a check whose ground is missing is left out."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xopd.checks.clips import bad_clips, read_headers
from xopd.checks.splits import check_splits, split_warnings
from xopd.config import Config
from xopd.data import Item, load_items
from xopd.data.audio import AudioError, AudioRules
from xopd.errors import UserError
from xopd.evals.bounds import read_bounds
from xopd.evals.graders.registry import Grader, grader_named
from xopd.families.checkpoint_files import check_weight_files, read_checkpoint_config
from xopd.families.hub import Checkpoints, Found, Model, models_loaded, path_of, with_path
from xopd.families.hub_errors import gigabytes
from xopd.families.registry import find_family
from xopd.ledger.begun import refuse_changes
from xopd.prompts.vocabulary import Vocabulary, describe_difference, open_teacher_tokenizer, same_tokenizer_files
from xopd.security import read_credentials
from xopd.security.report import describe_security
from xopd.streams.memory import redis_ceiling

if TYPE_CHECKING:
    from xopd.families import ModelFamily

AUDIO_SAMPLE = 24
"""Clips that are read and decoded."""
RPC_TIMEOUT_S = 5.0


class LeftOut(Exception):  # noqa: N818 (not an error)
    """The check does not apply, or needs something that another check found missing."""


class Noted(Exception):  # noqa: N818 (not an error)
    """Nothing is wrong, and something should be known."""


class SilentTeacherError(UserError):
    """A teacher does not answer; others may."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    outcome: Literal["ok", "warning", "failed", "left out"]
    detail: str
    error: UserError | None = None


class Checks:
    """Runs every check of one configuration."""

    def __init__(self, config: Config, checkpoints: Checkpoints | None = None) -> None:
        """Check nothing yet.

        Args:
            config: as it was read. `self.config` has folders in the place of hub ids, once those were looked up.
            checkpoints: what other checks of the same command found.
        """
        self.config = config
        self._given = config
        self._checkpoints = checkpoints or Checkpoints()
        self._rules = AudioRules.of(config.data)
        self._items: list[Item] | None = None
        self._clip_seconds: dict[str, float] = {}
        self._grader: Grader | None = None
        self._family: ModelFamily | None = None
        self._student: Vocabulary | None = None
        self._teacher: Vocabulary | None = None
        self._teacher_tokenizer: Any = None

    def run(self) -> list[Finding]:
        """All findings, in order; a failed check does not keep the others from running."""
        return [self._find(name, method) for name, method in self._checks()]

    def run_quick(self, resumes: Path | None = None) -> list[str]:
        """What `xopd up` looks at before it starts anything; a model library is loaded only for tokenizers that differ.

        Args:
            resumes: folder of the run that goes on, if one does.

        Returns:
            Sentences of what should be known.

        Raises:
            UserError: for the first mistake.
        """
        describe_security(self.config, up=True)
        warnings = []
        for method in (
            self.manifest,
            self.splits,
            self.overlap,
            self.checkpoints,
            self.tokenizers,
            self.grader,
            self.bounds,
            self.redis,
            self.endpoints,
        ):
            try:
                method()
            except LeftOut:
                continue
            except Noted as noted:
                warnings.append(str(noted))
        if resumes is not None:
            refuse_changes(resumes, self.config, self.items)
        return warnings

    def _checks(self) -> tuple[tuple[str, Callable[[], str]], ...]:
        return (
            ("manifest", self.manifest),
            ("splits", self.splits),
            ("overlap", self.overlap),
            ("student", self.student),
            ("teacher", self.teacher),
            ("vocabulary", self.vocabulary),
            ("audio", self.audio),
            ("grader", self.grader),
            ("prompts", self.prompts),
            ("bounds", self.bounds),
            ("security", self.security),
            ("Redis", self.redis),
            ("Redis memory", self.redis_memory),
            ("teacher endpoints", self.endpoints),
        )

    def manifest(self) -> str:
        """Is the manifest readable?"""
        self._items = load_items(self.config.data.manifest, self._rules.places)
        kinds = Counter((item.split, item.kind) for item in self._items)
        counted = ", ".join(f"{n:,} {split}/{kind}" for (split, kind), n in sorted(kinds.items()))
        return f"{len(self._items):,} items: {counted}"

    def splits(self) -> str:
        """Are there items to train on and to evaluate?"""
        data, items = self.config.data, self.items
        check_splits(self.config, items)
        tasks = sum(item.split == data.train_split and item.kind == "task" for item in items)
        return f"train on {data.train_split!r} ({tasks:,} tasks), evaluate on {data.eval_split!r}"

    def overlap(self) -> str:
        """Are the items that a run is judged by other ones than those that it trains on?"""
        warnings = split_warnings(self.config, self.items)
        if warnings:
            raise Noted(" ".join(warnings))
        return "what is evaluated is not trained on"

    def audio(self) -> str:
        """Do clips exist, and are they what a run accepts? All by their headers, some to the last sample."""
        items = self.items
        limit = self.config.data.max_audio_seconds
        rules = AudioRules.of(self.config.data, self._family)
        for item in items:
            if item.audio.seconds > limit:
                raise UserError(
                    f"item {item.id}: its clip lasts {item.audio.seconds:.1f} s; data.max_audio_seconds is {limit:g}."
                )
        for item, found in read_headers(items, rules):
            if isinstance(found, AudioError):
                raise _bad_clip(item, found)
            self._clip_seconds[item.id] = found.seconds
        sample = random.Random(0).sample(items, min(AUDIO_SAMPLE, len(items)))
        for item, error in bad_clips(sample, rules):
            raise _bad_clip(item, error)
        return f"headers looked at, {len(sample)} of {len(items):,} clips read: all can be used"

    def grader(self) -> str:
        """Is the grader known?"""
        self._grader = grader_named(self.config.evals.grader)
        return f"{self._grader.name}: {self._grader.expects}"

    def prompts(self) -> str:
        """Does every item fit both models, and can its answer be given?"""
        from xopd.checks.prompts import check_prompts

        if self._family is None or self._teacher_tokenizer is None:
            raise LeftOut("needs both tokenizers")
        if self._grader is None:
            raise LeftOut("needs the grader")
        found = check_prompts(
            self.config,
            self.items,
            self._clip_seconds,
            self._family,
            self._teacher_tokenizer,
            teacher_context(self.config),
            self._grader,
        )
        spelling = f"; {found.spelling:,} spell control tokens, and are encoded as plain text" if found.spelling else ""
        return f"{found.items:,} items fit; the longest prompt has {found.longest:,} tokens{spelling}"

    def checkpoints(self) -> str:
        """Are there checkpoints, of a family that is supported, and are their files whole?"""
        student, teacher = self._find_checkpoint("student"), self._find_checkpoint("teacher")
        find_family(self.config.student.path, self.config.student.family)
        self._check_weights("student", student)
        read_checkpoint_config("teacher.path", teacher.folder)
        self._check_weights("teacher", teacher)
        return "both are whole"

    def tokenizers(self) -> str:
        """Do token ids mean the same to both? A model library is loaded only where their files differ."""
        if not same_tokenizer_files(Path(self.config.student.path), Path(self.config.teacher.path)):
            self.student()
            self.teacher()
            self.vocabulary()
        return "they agree"

    def student(self) -> str:
        """Is the student's family supported?"""
        from xopd.families.registry import open_family

        found = self._find_checkpoint("student")
        family = open_family(self.config.student.path, self.config.student.family)
        to_fetch = self._check_weights("student", found)
        check_context(self.config)
        self._family, self._student = family, family.vocabulary
        return f"{found.source or found.folder}: {family.name}, {family.vocabulary.size:,} tokens{to_fetch}"

    def teacher(self) -> str:
        """Is the teacher's checkpoint there?"""
        found = self._find_checkpoint("teacher")
        model_type = read_checkpoint_config("teacher.path", found.folder)["model_type"]
        to_fetch = self._check_weights("teacher", found)
        self._teacher_tokenizer, self._teacher = open_teacher_tokenizer(self.config.teacher.path)
        return f"{found.source or found.folder}: {model_type}, {self._teacher.size:,} tokens{to_fetch}"

    def vocabulary(self) -> str:
        """Do token ids mean the same to both?"""
        if self._student is None or self._teacher is None:
            raise LeftOut("needs both tokenizers")
        difference = describe_difference(self._student, self._teacher)
        if difference is not None:
            raise UserError(f"student and teacher have different vocabularies: {difference}; give a matching teacher.")
        return f"student and teacher agree ({self._student.fingerprint[:12]}…)"

    def bounds(self) -> str:
        """Is the file of bounds readable?"""
        path = self.config.evals.bounds
        if path is None:
            raise LeftOut("none given")
        return ", ".join(read_bounds(path))

    def security(self) -> str:
        """What do services ask of their callers, and is that enough for the addresses that they bind?"""
        return describe_security(self.config)

    def redis(self) -> str:
        """Is Redis there, and new enough?"""
        if self.config.redis.url is None:
            raise LeftOut("`xopd up` starts its own")
        return asyncio.run(self._ask_redis())

    def redis_memory(self) -> str:
        """How much of Redis can the run take?"""
        ceiling = redis_ceiling(self.config)
        return (
            f"at most {ceiling.bytes / 2**20:,.1f} MB: {ceiling.prompts:,} prompts, and {ceiling.trajectories:,}"
            " trajectory groups until their checkpoint"
        )

    def endpoints(self) -> str:
        """Do the teachers answer, with the vocabulary of the student?"""
        endpoints = self.config.teacher.endpoints
        if not endpoints:
            raise LeftOut("`xopd up` starts one")
        answers, silent = [], []
        for endpoint in _listed(endpoints):
            try:
                answers.append(self._ask_teacher(endpoint))
            except SilentTeacherError as error:
                silent.append(error)
        if not answers:
            raise silent[0] if silent else UserError(f"teacher.endpoints {endpoints[0]}: lists no teacher; add one.")
        # The trainer goes on with those there are, and takes up the others when they come.
        return "; ".join([*answers, *(str(error) for error in silent)])

    def _find(self, name: str, method: Callable[[], str]) -> Finding:
        try:
            return Finding(name, "ok", method())
        except Noted as noted:
            return Finding(name, "warning", str(noted))
        except LeftOut as reason:
            return Finding(name, "left out", str(reason))
        except UserError as error:
            return Finding(name, "failed", str(error), error)

    @property
    def items(self) -> list[Item]:
        """The manifest's items, once it was read. Raises LeftOut where it could not be."""
        if self._items is None:
            raise LeftOut("needs the manifest")
        return self._items

    def _find_checkpoint(self, model: Model) -> Found:
        """The model's checkpoint, whose small files are there from now on."""
        needed = model in models_loaded(self._given)
        found = self._checkpoints.find(f"{model}.path", path_of(self._given, model), needed)
        self.config = with_path(self.config, model, found.folder)
        return found

    def _check_weights(self, model: Model, found: Found) -> str:
        """Check weights that are there; a clause on those that `xopd up` would fetch."""
        if model not in models_loaded(self.config):
            return ""
        if found.missing:
            return f"; `xopd up` fetches {gigabytes(found.missing_bytes)}"
        check_weight_files(f"{model}.path", found.folder)
        return ""

    async def _ask_redis(self) -> str:
        from xopd.streams.connection import connect
        from xopd.streams.memory import refuse_eviction

        client = await connect(self.config.redis)
        try:
            await refuse_eviction(client, self.config.redis, redis_ceiling(self.config).bytes)
            about = await client.info("server")
        finally:
            await client.aclose()
        name = "Valkey" if about.get("valkey_version") else "Redis"
        return f"{name} {about.get('valkey_version') or about['redis_version']}"

    def _ask_teacher(self, endpoint: str) -> str:
        from xopd.scoring.ask import ask_info

        info = asyncio.run(ask_info(endpoint, read_credentials(self.config.security), RPC_TIMEOUT_S))
        if self._student is not None and info.vocabulary_fingerprint != self._student.fingerprint:
            raise UserError(
                f"teacher.endpoints {endpoint}: serves {info.model}, whose vocabulary is not the student's."
            )
        return f"{endpoint}: {info.model}, {info.engine} {info.engine_version}"


def max_positions(path: str) -> int | None:
    """Tokens that a checkpoint's language model is made for; None where its configuration does not tell."""
    from transformers import AutoConfig

    try:
        text = AutoConfig.from_pretrained(path, local_files_only=True).get_text_config()
    except Exception:  # what is wrong with it, another check says
        return None
    found = getattr(text, "max_position_embeddings", None)
    return int(found) if found else None


def check_context(config: Config) -> None:
    """Hold the context of the pods against what the student is made for. Raises UserError."""
    positions = max_positions(config.student.path)
    if positions is not None and config.rollout.max_model_len > positions:
        raise UserError(
            f"rollout.max_model_len is {config.rollout.max_model_len}; the student's language model is made for"
            f" {positions} tokens (max_position_embeddings): lower it."
        )


def teacher_context(config: Config) -> int | None:
    """Longest prompt plus response that the teacher takes (tokens), as far as it is known here."""
    settings = config.teacher
    positions = max_positions(settings.path)
    if settings.endpoints:
        return positions
    # vLLM always samples one more token.
    budget = settings.token_budget if positions is None else min(positions, settings.token_budget)
    return budget - 1 if settings.engine == "vllm" else budget


def _bad_clip(item: Item, error: AudioError) -> UserError:
    return UserError(
        f"item {item.id}: {error}; build the dataset again, or take out what `xopd data stats --clips --student PATH`"
        " names."
    )


def _listed(endpoints: list[str]) -> list[str]:
    """host:port of every entry, and of every line of those that are files."""
    from xopd.scoring.pods import EndpointFile, parse_source

    listed = []
    for source in map(parse_source, endpoints):
        try:
            listed += source.read() if isinstance(source, EndpointFile) else [source]
        except OSError as error:
            raise UserError(f"teacher.endpoints {source}: cannot be read ({error.strerror}); correct it.") from None
    return [str(endpoint) for endpoint in listed]
