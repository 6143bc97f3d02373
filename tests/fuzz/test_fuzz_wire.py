"""The wire's decoders under a coverage-guided fuzzer, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import CORPUS, KINDS, REFUSALS, SEEDS, corpus, decode_any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10
LONG = 60
NO_ATHERIS = "atheris has no wheel for this platform (it has for Linux on x86-64)"


def fuzz(seconds: int, keep: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Fuzz in another process, after running `code` there."""
    start = f"import sys; sys.argv[0] = 'fuzz'\nfrom tests.fuzz.target import main\n{code}\nmain()"
    # Through a shell of its own: a process begins with its parent's peak of memory, which the fuzzer would take for its
    # own, and pytest's is beyond the fuzzer's limit by the end of a long session.
    apart = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
    return subprocess.run(
        [*apart, sys.executable, "-c", start, "--seconds", str(seconds), "--keep", str(keep)],
        capture_output=True, text=True, cwd=ROOT, timeout=seconds + 120,
    )  # fmt: skip


@pytest.mark.timeout(LONG + 180)
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(LONG, marks=pytest.mark.long)])
def test_no_input_breaks_a_decoder(seconds, tmp_path) -> None:
    pytest.importorskip("atheris", reason=NO_ATHERIS)
    done = fuzz(seconds, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []
    runs = re.search(r"Done (\d+) runs in", done.stderr)
    assert runs is not None and int(runs[1]) > 150 * seconds, done.stderr[-1000:]


def test_a_fault_would_be_found_and_kept(tmp_path) -> None:
    pytest.importorskip("atheris", reason=NO_ATHERIS)
    fault = (
        "import xopd.wire.messages as m\n"
        "def broken(data):\n"
        "    pod = m.decode(m.weights_pb2.PodStatus, data)\n"
        "    return 1 // max(0, 99 - pod.in_flight_groups)\n"
        "import tests.fuzz.seeds as s\n"
        "s.DECODERS['pod_status'] = broken\n"
    )
    done = fuzz(LONG, tmp_path, fault)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    (kept,) = tmp_path.glob("crash-*")
    assert KINDS[kept.read_bytes()[0] % len(KINDS)] == "pod_status"


def test_the_committed_corpus_is_what_the_code_makes() -> None:
    assert {path.name: path.read_bytes() for path in CORPUS.iterdir()} == corpus()


@pytest.mark.parametrize("name", sorted(corpus()))
def test_every_seed_is_a_good_message(name) -> None:
    contents = corpus()[name]
    assert decode_any(KINDS[contents[0]], contents[1:])
    for end in range(len(contents)):
        try:
            decode_any(KINDS[contents[0]], contents[1:end])
        except REFUSALS:
            continue
    assert set(SEEDS) == set(KINDS)
