"""The checks of `xopd check`, one method each; a check whose ground is missing is left out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xopd.cli.clips import bad_clips, bad_headers
from xopd.config import Config
from xopd.data import Item, load_items
from xopd.data.audio import AudioRules
from xopd.data.vocabulary import Vocabulary, describe_difference, vocabulary_of
from xopd.errors import UserError
from xopd.security import open_doors
from xopd.security.report import describe_doors
from xopd.streams.ceiling import redis_ceiling

AUDIO_SAMPLE = 24
"""Clips that are read and decoded."""
RPC_TIMEOUT_S = 5.0


class LeftOut(Exception):  # noqa: N818 (not an error)
    """The check does not apply, or needs something that another check found missing."""


class SilentTeacherError(UserError):
    """A teacher does not answer; others may."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    outcome: Literal["ok", "failed", "left out"]
    detail: str
    error: UserError | None = None


class Checks:
    """Runs every check of one configuration."""

    def __init__(self, config: Config) -> None:
        """Check nothing yet."""
        self.config = config
        self._rules = AudioRules.of(config.data)
        self._items: list[Item] | None = None
        self._student: Vocabulary | None = None
        self._teacher: Vocabulary | None = None

    def run(self) -> list[Finding]:
        """All findings, in order; a failed check does not keep the others from running."""
        return [self._find(name, method) for name, method in self._checks()]

    def run_quick(self) -> None:
        """What takes no model library to check, so that `xopd up` tells such mistakes before it starts anything.

        Raises:
            UserError: for the first mistake.
        """
        describe_doors(self.config, up=True)
        for method in (self.manifest, self.splits, self.folders, self.bounds, self.redis, self.endpoints):
            with contextlib.suppress(LeftOut):
                method()

    def _checks(self) -> tuple[tuple[str, Callable[[], str]], ...]:
        return (
            ("manifest", self.manifest),
            ("splits", self.splits),
            ("audio", self.audio),
            ("student", self.student),
            ("teacher", self.teacher),
            ("vocabulary", self.vocabulary),
            ("bounds", self.bounds),
            ("doors", self.doors),
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
        data = self.config.data
        items = self._known_items()
        have = Counter(item.split for item in items if item.kind == "task")
        wanted = [("data.train_split", data.train_split), ("data.eval_split", data.eval_split)]
        if self.config.evals.every:
            wanted.append(("data.dev_split", data.dev_split))
        for setting, split in wanted:
            if not have[split]:
                there = ", ".join(sorted({item.split for item in items}))
                raise UserError(f"{setting} {split!r}: {data.manifest} has no task of that split; it has {there}.")
        return f"train on {data.train_split!r} ({have[data.train_split]:,} tasks), evaluate on {data.eval_split!r}"

    def audio(self) -> str:
        """Do clips exist, and are they what a run accepts? All by their headers, some to the last sample."""
        items = self._known_items()
        limit = self.config.data.max_audio_seconds
        for item in items:
            if item.audio.seconds > limit:
                raise UserError(
                    f"item {item.id}: its clip lasts {item.audio.seconds:.1f} s; data.max_audio_seconds is {limit:g}."
                )
        sample = random.Random(0).sample(items, min(AUDIO_SAMPLE, len(items)))
        for item, error in (*bad_headers(items, self._rules), *bad_clips(sample, self._rules)):
            raise UserError(
                f"item {item.id}: {error}; build the dataset again, or take out what `xopd data stats --clips` names."
            )
        return f"headers looked at, {len(sample)} of {len(items):,} clips read: all can be used"

    def folders(self) -> str:
        """Are there checkpoints at all?"""
        for setting, path in (("student.path", self.config.student.path), ("teacher.path", self.config.teacher.path)):
            if not (Path(path) / "config.json").is_file():
                raise UserError(f"{setting} {path}: holds no config.json; give a checkpoint folder.")
        return "both have a config.json"

    def student(self) -> str:
        """Is the student's family supported?"""
        from xopd.families.registry import open_family

        settings = self.config.student
        family = open_family(settings.path, settings.family)
        if not any(Path(settings.path).glob("*.safetensors")):
            raise UserError(f"student.path {settings.path}: holds no safetensors file; give a checkpoint folder.")
        self._student = family.vocabulary
        return f"{settings.path}: {family.name}, {family.vocabulary.size:,} tokens"

    def teacher(self) -> str:
        """Is the teacher's checkpoint there?"""
        from transformers import AutoTokenizer

        path = Path(self.config.teacher.path)
        config = path / "config.json"
        try:
            model_type = str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"teacher.path {path}: holds no config.json that names a model; give a checkpoint."
            ) from None
        if not self.config.teacher.endpoints and not any(path.glob("*.safetensors")):
            raise UserError(f"teacher.path {path}: holds no safetensors file; give a checkpoint folder.")
        try:
            self._teacher = vocabulary_of(AutoTokenizer.from_pretrained(path, local_files_only=True))
        except (OSError, ValueError) as error:
            raise UserError(f"teacher.path {path}: its tokenizer cannot be loaded ({_first_line(error)}).") from None
        return f"{path}: {model_type}, {self._teacher.size:,} tokens"

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
        try:
            names = list(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(
                f"evals.bounds {path}: cannot be read ({_first_line(error)}); correct or remove it."
            ) from None
        return ", ".join(map(str, names))

    def doors(self) -> str:
        """What do services ask of their callers, and is that enough for the addresses that they bind?"""
        return describe_doors(self.config)

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
        except LeftOut as reason:
            return Finding(name, "left out", str(reason))
        except UserError as error:
            return Finding(name, "failed", str(error), error)

    def _known_items(self) -> list[Item]:
        if self._items is None:
            raise LeftOut("needs the manifest")
        return self._items

    async def _ask_redis(self) -> str:
        from xopd.streams.connection import connect

        client = await connect(self.config.redis)
        try:
            about = await client.info("server")
        finally:
            await client.aclose()
        name = "Valkey" if about.get("valkey_version") else "Redis"
        return f"{name} {about.get('valkey_version') or about['redis_version']}"

    def _ask_teacher(self, endpoint: str) -> str:
        from xopd.scoring.ask import ask_info

        info = asyncio.run(ask_info(endpoint, open_doors(self.config.security), RPC_TIMEOUT_S))
        if self._student is not None and info.vocabulary_fingerprint != self._student.fingerprint:
            raise UserError(
                f"teacher.endpoints {endpoint}: serves {info.model}, whose vocabulary is not the student's."
            )
        return f"{endpoint}: {info.model}, {info.engine} {info.engine_version}"


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


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
