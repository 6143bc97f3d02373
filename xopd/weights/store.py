"""The bytes of weight versions: safetensors files behind an fsspec URI.

Torch-free: it moves bytes, and checks them by hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from pathlib import Path

import fsspec

from xopd.config import Config
from xopd.data.places import PlaceError, Places, is_local, local_path
from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import WeightsUnavailableError
from xopd.wire import PROTOCOL


class WeightStore:
    """Writes versions under one URI and forgets the oldest."""

    def __init__(self, uri: str, run_id: str, keep: int) -> None:
        """Store under `uri`, keeping the newest `keep` versions of `run_id`."""
        self.uri = uri
        self.filesystem, self.root = fsspec.core.url_to_fs(uri)
        self.run_id = run_id
        self.keep = keep
        self._written: list[str] = []

    def put(self, version: int, data: bytes, tensor_count: int) -> pb.WeightManifest:
        """Write one version (a whole safetensors file) and return its manifest.

        The file appears under its name only when it is complete.

        Raises:
            OSError: if it cannot be written, such as on a full disk; nothing is left behind.
        """
        self.filesystem.makedirs(self.root, exist_ok=True)
        name = f"{self.root}/{self.run_id}-v{version:08d}.safetensors"
        partial = f"{name}.{uuid.uuid4().hex}.part"
        try:
            with self.filesystem.open(partial, "wb") as file:
                file.write(data)
            self.filesystem.mv(partial, name)
        except BaseException:
            # A full disk must not stay full because of what did not fit.
            with contextlib.suppress(OSError):
                self.filesystem.rm(partial)
            raise
        if name not in self._written:
            self._written.append(name)
        while len(self._written) > self.keep:
            self.filesystem.rm(self._written.pop(0))
        return pb.WeightManifest(
            protocol=PROTOCOL,
            run_id=self.run_id,
            version=version,
            kind=pb.WEIGHT_KIND_FULL,
            uri=self.filesystem.unstrip_protocol(name),
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            tensor_count=tensor_count,
            published_at=time.time(),
        )

    def fault_of(self, manifest: pb.WeightManifest) -> str | None:
        """What is wrong with a stored version, as a clause; None where it is what its manifest says."""
        try:
            fetch_weights(manifest, self.uri, manifest.size_bytes)
        except WeightsUnavailableError as error:
            return str(error)
        return None


def store_uri(config: Config) -> str:
    """Where the versions of this run lie: what `weights.uri` says, or the run's own folder."""
    return config.weights.uri or str((Path(config.run.directory) / config.run.name / "weights").resolve())


def fetch_weights(manifest: pb.WeightManifest, root: str, most_bytes: int) -> bytes:
    """Read a version's bytes and check them against its manifest.

    Args:
        manifest: from Redis: somebody else's word.
        root: URI of the weight store; nothing outside of it is read.
        most_bytes: what a version of this student can have at most.

    Raises:
        WeightsUnavailableError: if they are missing or differ.
    """
    where = f"weight version {manifest.version}: {manifest.uri}"
    if manifest.size_bytes > most_bytes:
        raise WeightsUnavailableError(
            f"{where} is announced with {manifest.size_bytes:,} bytes; this student's have at most {most_bytes:,}"
        )
    try:
        place = Places.below([root]).check(manifest.uri)
        with fsspec.open(place, "rb") as file:
            data: bytes = file.read(manifest.size_bytes + 1)
    except PlaceError as error:
        raise WeightsUnavailableError(f"{where} {error}") from None
    except Exception as error:  # each kind of store has its own errors
        raise WeightsUnavailableError(f"{where} cannot be read ({error})") from None
    if len(data) != manifest.size_bytes:
        more = "more" if len(data) > manifest.size_bytes else f"{len(data):,}"
        raise WeightsUnavailableError(f"{where} has {more} bytes, its manifest says {manifest.size_bytes:,}")
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.sha256:
        raise WeightsUnavailableError(f"{where} has SHA-256 {found[:12]}…, its manifest says {manifest.sha256[:12]}…")
    return data


def missing_store(manifest: pb.WeightManifest, root: str) -> Path | None:
    """The folder of this process's own store, `root`, where it is missing or holds no version, though one is announced.

    None where it holds some, for stores that are not local, and for a manifest that names another place: that is
    somebody else's word, and the version is refused for it.
    """
    try:
        place = Places.below([root]).check(manifest.uri)
    except PlaceError:
        return None
    folder = local_path(root).resolve()
    return None if not is_local(place) or (folder.is_dir() and any(folder.glob("*.safetensors"))) else folder


def remove_leftovers(uri: str) -> int:
    """Remove weight files that an earlier life of the trainer left under a local `uri`; returns how many."""
    folder = Path(uri.removeprefix("file://"))
    if "://" in uri.removeprefix("file://") or not folder.is_dir():
        return 0
    leftovers = [*folder.glob("*.safetensors"), *folder.glob("*.part")]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
