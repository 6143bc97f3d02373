"""The transport `store`: each version a safetensors file behind an fsspec URI.

Both sides pass over a file tensor by tensor and hash it on the way. A receiver passes over it twice: `check` holds it
against its SHA-256 and the student's checkpoint, and notes the running hash at the end of every tensor; `tensors` reads
again and yields a tensor only where the running hash is the same, so that what is applied is what was checked. Every
worker of a pod hashes a version twice: for 30 billion parameters in bfloat16, 60 GB at the 1.2 GB/s of one core,
50 seconds a pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
from torch import Tensor

from xopd.config import Config
from xopd.data.places import PlaceError, Places, is_local, local_path
from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import NamedTensors, TensorSpec, VersionChangedError, WeightsUnavailableError
from xopd.weights.contents import TrainedTensors
from xopd.weights.safetensors_file import CHUNK, FormatError, HashedWriter, read_header, read_tensor, write_safetensors
from xopd.wire import PROTOCOL


def store_uri(config: Config) -> str:
    """Where the versions of this run lie: what `weights.uri` says, or the run's own folder."""
    return config.weights.uri or str((Path(config.run.directory) / config.run.name / "weights").resolve())


class StoreSender:
    """Writes versions under one URI and removes the oldest."""

    transport = "store"

    def __init__(self, uri: str, run_id: str, keep: int) -> None:
        """Store under `uri`, keeping the `keep` versions of `run_id` that were sent last."""
        self.uri = uri
        self.place = f"weights.uri {uri}"
        self.filesystem, self.root = fsspec.core.url_to_fs(uri)
        self.run_id = run_id
        self.keep = keep
        self._sent: dict[int, str] = {}
        """SHA-256 of the versions in the store, oldest first."""

    def clear(self) -> None:
        """Remove weight files that an earlier life of the trainer left in a local store."""
        remove_leftovers(self.uri)

    def send(self, version: int, tensors: NamedTensors) -> pb.WeightManifest:
        """Write one version; the file appears under its name only when it is complete.

        Raises:
            VersionChangedError: if the version was sent before with other tensors; nothing is changed.
            OSError: if it cannot be written, such as on a full disk; nothing is left behind.
        """
        self.filesystem.makedirs(self.root, exist_ok=True)
        name = self._name(version)
        partial = f"{name}.{uuid.uuid4().hex}.part"
        try:
            with self.filesystem.open(partial, "wb") as file:
                written = HashedWriter(file)
                write_safetensors(written, tensors, {"format": "pt"})
            if self._sent.get(version, written.sha256) != written.sha256:
                raise VersionChangedError(f"weight version {version} was sent before with other tensors")
            self.filesystem.mv(partial, name)
        except BaseException:
            # A full disk must not stay full because of what did not fit.
            with contextlib.suppress(OSError):
                self.filesystem.rm(partial)
            raise
        self._sent[version] = written.sha256
        while len(self._sent) > self.keep:
            oldest = next(iter(self._sent))
            del self._sent[oldest]
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.rm(self._name(oldest))
        return pb.WeightManifest(
            protocol=PROTOCOL,
            run_id=self.run_id,
            version=version,
            kind=pb.WEIGHT_KIND_FULL,
            uri=self.filesystem.unstrip_protocol(name),
            sha256=written.sha256,
            size_bytes=written.size,
            tensor_count=len(tensors.specs),
            published_at=time.time(),
            transport=self.transport,
        )

    def fault_of(self, manifest: pb.WeightManifest) -> str | None:
        """What is wrong with a stored version, as a clause; None where it is what its manifest says."""
        try:
            with _StoredVersion(manifest, self.uri, manifest.size_bytes) as stored:
                stored.verify()
        except WeightsUnavailableError as error:
            return str(error)
        return None

    def _name(self, version: int) -> str:
        return f"{self.root}/{self.run_id}-v{version:08d}.safetensors"


@dataclass(frozen=True)
class _Checked:
    """What `check` has seen of a version."""

    stored: _StoredVersion
    """Open still: a file that is removed or replaced meanwhile can be read on a local disk."""
    header_bytes: int
    tensors: list[tuple[TensorSpec, bytes]]
    """With the running SHA-256 from the file's beginning to each tensor's end."""


class StoreReceiver:
    """Reads versions below one URI, one tensor in memory at a time."""

    def __init__(self, root: str, trained: TrainedTensors) -> None:
        """Read nothing outside of `root`, a URI; versions must hold the `trained` tensors."""
        self.root = root
        self.trained = trained
        self._checked: _Checked | None = None

    def misconfigured(self, manifest: pb.WeightManifest) -> str | None:
        """Why this pod can fetch no version at all, as a sentence for its user; None where it may."""
        folder = missing_store(manifest, self.root)
        if folder is None:
            return None
        return (
            f"weights.uri: {folder}, where the trainer writes weight versions, is missing or empty on this pod;"
            " mount the same volume here and there."
        )

    def check(self, manifest: pb.WeightManifest) -> None:
        """Read a version once, and hold it against its manifest and the student's checkpoint.

        Raises:
            WeightsUnavailableError: if it cannot be read or is not what it must be.
        """
        if self._checked is not None:
            self._checked.stored.close()
        self._checked = None
        stored = _StoredVersion(manifest, self.root, self.trained.most_bytes)
        try:
            fault: WeightsUnavailableError | None = None
            try:
                self._checked = self._contents(stored)
            except FormatError as error:
                fault = WeightsUnavailableError(f"{stored.where} is no safetensors file ({error})")
            except WeightsUnavailableError as error:
                fault = error
            # A file that is damaged is called damaged, whatever its damage looks like.
            stored.verify()
            if fault is not None:
                raise fault
        except BaseException:
            self._checked = None
            stored.close()
            raise

    def _contents(self, stored: _StoredVersion) -> _Checked:
        manifest = stored.manifest
        specs = read_header(stored, self.trained.most_header_bytes)
        if len(specs) != manifest.tensor_count:
            raise WeightsUnavailableError(
                f"{stored.where} holds {len(specs)} tensors, its manifest says {manifest.tensor_count}"
            )
        self.trained.check_specs(manifest.version, specs)
        header_bytes, seen = stored.position, []
        for spec in specs:
            self.trained.check_values(manifest.version, spec.name, read_tensor(stored, spec))
            seen.append((spec, stored.digest))
        return _Checked(stored, header_bytes, seen)

    def tensors(self, manifest: pb.WeightManifest) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the version that was checked last, in the order of its file.

        Raises:
            WeightsUnavailableError: if the version was not checked, or a tensor is not what `check` has seen.
        """
        checked, self._checked = self._checked, None
        if checked is None or checked.stored.manifest.sha256 != manifest.sha256:
            raise WeightsUnavailableError(f"weight version {manifest.version} was not checked")
        with checked.stored as stored:
            stored.rewind()
            stored.fill(memoryview(bytearray(checked.header_bytes)))
            for spec, digest in checked.tensors:
                try:
                    tensor = read_tensor(stored, spec)
                except FormatError:
                    tensor = None
                if tensor is None or stored.digest != digest:
                    raise WeightsUnavailableError(f"{stored.where}: {spec.name} has changed since it was checked")
                yield spec.name, tensor
                # Else it would still be here while the next one is read.
                del tensor


class _StoredVersion:
    """A version's file, hashed while it is read (a `safetensors_file.Readable`)."""

    def __init__(self, manifest: pb.WeightManifest, root: str, most_bytes: int) -> None:
        """Open what `manifest`, somebody else's word, names.

        Raises:
            WeightsUnavailableError: if it lies outside of `root`, is announced larger than `most_bytes`, or is missing.
        """
        self.manifest = manifest
        self.where = f"weight version {manifest.version}: {manifest.uri}"
        if manifest.size_bytes > most_bytes:
            raise WeightsUnavailableError(
                f"{self.where} is announced with {manifest.size_bytes:,} bytes;"
                f" this student's have at most {most_bytes:,}"
            )
        try:
            place = Places.below([root]).check(manifest.uri)
            filesystem, path = fsspec.core.url_to_fs(place)
            self._file = filesystem.open(path, "rb")
        except PlaceError as error:
            raise WeightsUnavailableError(f"{self.where} {error}") from None
        except Exception as error:  # each kind of store has its own errors
            raise WeightsUnavailableError(f"{self.where} cannot be read ({error})") from None
        self.position = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> _StoredVersion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that was read so far."""
        return self._hash.digest()

    def rewind(self) -> None:
        """Go back to the beginning."""
        self._file.seek(0)
        self.position = 0
        self._hash = hashlib.sha256()

    def fill(self, view: memoryview) -> None:
        """Read exactly as many bytes as `view` has. Raises FormatError where file or announced size end before."""
        if self.position + len(view) > self.manifest.size_bytes or self._read(view) < len(view):
            raise FormatError("it ends too early")

    def verify(self) -> None:
        """Read what is left, and hold size and hash against the manifest. Raises WeightsUnavailableError."""
        said = self.manifest.size_bytes
        view = memoryview(bytearray(CHUNK))
        while self.position <= said:
            wanted = min(CHUNK, said + 1 - self.position)
            if self._read(view[:wanted]) < wanted:
                break
        if self.position != said:
            has = "more" if self.position > said else f"{self.position:,}"
            raise WeightsUnavailableError(f"{self.where} has {has} bytes, its manifest says {said:,}")
        if self._hash.hexdigest() != self.manifest.sha256:
            raise WeightsUnavailableError(
                f"{self.where} has SHA-256 {self._hash.hexdigest()[:12]}…,"
                f" its manifest says {self.manifest.sha256[:12]}…"
            )

    def _read(self, view: memoryview) -> int:
        """Read into `view` until it is full or the file ends; returns how many bytes."""
        count = 0
        try:
            while count < len(view) and (more := self._file.readinto(view[count:])):
                count += more
        except Exception as error:  # each kind of store has its own errors
            raise WeightsUnavailableError(f"{self.where} cannot be read ({error})") from None
        self._hash.update(view[:count])
        self.position += count
        return count


def missing_store(manifest: pb.WeightManifest, root: str) -> Path | None:
    """The folder of this process's own store, `root`, where it is missing or holds no version, though one is announced.

    None where it holds some, for stores that are not local, and for a manifest that names another place: that is
    somebody else's word, and the version is rejected for it.
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
