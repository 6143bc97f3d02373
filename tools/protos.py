"""Generate xopd/v1 from protos/ (`make protos`), or say which generated files are not current (`--check`).

The committed files spare every user the generator; this keeps them equal to what the pinned grpcio-tools writes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("xopd/v1")


def generate(out: Path) -> None:
    """Write the messages, their types and the gRPC stubs under `out`/xopd/v1.

    Raises:
        RuntimeError: when protoc refuses the sources (its own words are on standard error).
    """
    sources = sorted(str(path) for path in (ROOT / "protos" / PACKAGE).glob("*.proto"))
    out.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{ROOT / 'protos'}", f"-I{files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *includes, *outputs, *sources]):
        raise RuntimeError("protoc refused the sources in protos/")


def stale() -> list[str]:
    """The files of xopd/v1 that are missing, differ, or come from no source any more."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = _contents(Path(folder) / PACKAGE)
    committed = _contents(ROOT / PACKAGE)
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*_pb2*.py*")}


def main() -> int:
    """Exit status 1 when `--check` found a stale file."""
    parser = argparse.ArgumentParser(description="Generate xopd/v1 from protos/, or check it.")
    parser.add_argument("--check", action="store_true", help="change nothing; name the files that are not current")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    found = stale()
    sys.stderr.writelines(f"{PACKAGE / name} is not current: run make protos\n" for name in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
