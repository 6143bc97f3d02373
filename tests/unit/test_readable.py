"""Output where the encoding has no ✓ and no →: every command ends as it would, in words that can be read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.synthetic_run import write_run
from xopd.local import child
from xopd.readable import ERRORS, in_ascii, use_readable_output

ROOT = Path(__file__).resolve().parents[2]
LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0"},
}
EVERY_LOCALE = pytest.mark.parametrize("locale", LOCALES)


def python(locale: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status and both outputs of a Python program under a locale; they are of its encoding."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XOPD_", "PYTHON", "LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        cwd=ROOT,
        env={**clean, "COLUMNS": "100", **LOCALES[locale]},
        timeout=100,
        check=False,
    )
    encoding = "ascii" if locale == "C" else locale
    out, err = done.stdout.decode(encoding, "surrogateescape"), done.stderr.decode(encoding, "surrogateescape")
    assert "Traceback" not in err and "EncodeError" not in err, err
    return done.returncode, out, err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.e2e.world import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@EVERY_LOCALE
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("config", "reference"), ["Optimiser steps", "XOPD_RUN__SEED"]),
        (("data", "stats", "{items}"), ["retention", "24"]),
        (("report", "{run}"), ["final student", "78.2 %", "report.html"]),
        (("report", "{run}", "--markdown"), ["| final student | 78.2 [74.2, 82.2] |"]),
        (("up", "--help"), ["--plain", "--start-timeout"]),
        (("compare", "--help"), ["--plain"]),
    ],
    ids=["config", "data", "report", "markdown", "up", "compare"],
)
def test_what_commands_say_is_there(locale: str, arguments, words, world: Path, tmp_path: Path) -> None:
    places = {"items": world.parent / "items.jsonl", "run": tmp_path / "tiny"}
    if "{run}" in arguments:
        write_run(tmp_path / "tiny", steps=3)
    status, out, _ = python(locale, "-m", "xopd", *(each.format(**places) for each in arguments))
    assert status == 0
    for word in words:
        assert word in out


@EVERY_LOCALE
def test_a_check(locale: str, world: Path) -> None:
    status, out, _ = python(locale, "-m", "xopd", "check", str(world))
    assert status == 0
    assert "+  manifest" in out and "All is well" in out
    status, out, err = python(locale, "-m", "xopd", "check", str(world), "--set", "student.path=/nowhere")
    assert status == 2
    assert "x  student " in out and "xopd: student.path /nowhere" in err


@EVERY_LOCALE
def test_a_sentence_with_words_of_any_language(locale: str) -> None:
    status, _, err = python(locale, "-m", "xopd", "up", "/naïve → 東.yaml")
    assert status == 2
    name = {"cp1252": "/naïve -> ?.yaml"}.get(locale, "/naive -> ?.yaml")
    assert err.startswith(f"xopd: {name}: there is no such configuration file")


@pytest.mark.parametrize(("locale", "service"), [("C", "teacher"), ("cp1252", "trainer"), ("ascii", "rollout")])
def test_a_service_ends_with_its_sentence(locale: str, service: str) -> None:
    status, _, err = python(locale, "-m", f"xopd_{service}", "--config", "/nowhere → ✓.yaml")
    assert status == 2
    assert err.startswith("xopd: /nowhere -> +.yaml: there is no such configuration file")


LIVE = """
from pathlib import Path
from rich.console import Console
from tests.unit.test_cli import scene, trainer_status
from xopd.local.live import render
from xopd.local.plain import PlainView
from xopd.readable import use_readable_output
use_readable_output()
shown = scene(Path("/tmp"))
shown.status = trainer_status()
console = Console(width=100, force_terminal=True)
console.print(render(shown, 100))
view = PlainView(console, shown)
view.refresh()
"""


@EVERY_LOCALE
def test_the_views_of_a_run(locale: str) -> None:
    status, out, _ = python(locale, "-c", LIVE)
    assert status == 0
    for word in ("step 120/300", "2 min 11 s left", "97.0 %", "KL to teacher", "restarting", "elsewhere-7"):
        assert word in out


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("✓ ✕ – — … ← → ‖ λ π θ ≥ ≤ · ×", "+ x - - ... <- -> || lambda pi theta >= <= . x"),
        ("‘a’ “b” ’", "'a' \"b\" '"),
        ("▁▂▃▄▅▆▇█ ▏", "_.:-=+*# |"),
        ("─━╌╸╺│┃╻┌┐└┘├┼╭╯", "-----|||++++++++"),
        ("zwölf café naïve Ångström ﬁ", "zwolf cafe naive Angstrom fi"),
        ("東 \u0301 \U0001f600", "?  ?"),
        ("plain", "plain"),
    ],
)
def test_characters_in_ascii(text: str, wanted: str) -> None:
    assert text.encode("ascii", ERRORS).decode("ascii") == wanted


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    use_readable_output()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "koi8-r", "utf-8", "utf-16", "cp037", "big5"])
def test_every_character_can_be_written_in_every_encoding(encoding: str) -> None:
    for start in (*range(0, 0x3000, 0x400), 0xD800, 0xDC00, 0xF000, 0x1F600):
        text = "".join(map(chr, range(start, start + 0x400)))
        assert len(text.encode(encoding, ERRORS)) >= 0x400 / 2
    assert all(in_ascii(character).isascii() for character in map(chr, range(0x11000)))


def test_what_an_encoding_has_is_left_as_it_is() -> None:
    assert "– … × → ✓".encode("cp1252", ERRORS).decode("cp1252") == "– … × -> +"
    assert "zwölf → ✓".encode("utf-8", ERRORS).decode() == "zwölf → ✓"


def test_bytes_of_a_file_name_come_back() -> None:
    name = os.fsdecode(b"caf\xe9.wav") if sys.getfilesystemencoding() == "utf-8" else "caf\udce9.wav"
    assert name.encode("ascii", ERRORS) == b"caf\xe9.wav"
    assert name.encode("utf-8", ERRORS) == b"caf?.wav"


def test_only_the_answer_to_encoding_is_changed() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", ERRORS)


def test_streams_that_are_none_of_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    use_readable_output()


@pytest.mark.parametrize("isolated", [[], ["-I"]])
def test_a_locale_of_ascii_reads_files_and_names_as_utf_8(tmp_path: Path, isolated: list[str]) -> None:
    """As torch does, which reads its own files without naming an encoding."""
    path = tmp_path / "zwölf.txt"
    path.write_text("→", encoding="utf-8")
    code = (
        "import sys; from xopd.readable import use_readable_output; use_readable_output();"
        " print(ascii(open(sys.argv[1]).read()), ascii(sys.argv[1]), sys.stdout.encoding)"
    )
    status, out, _ = python("C", *isolated, "-c", code, str(path))
    # Isolated, Python reads no variable: not that of its output's encoding either.
    assert (status, out.split()) == (0, ["'\\u2192'", ascii(str(path)), "utf-8" if isolated else "ascii"])


def test_a_log_is_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    for env in (None, {**os.environ, "PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        process = child.spawn([sys.executable, "-c", "print('zwölf → ✓')"], log, env)
        assert process.wait(30) == 0
        assert log.read_text(encoding="utf-8") == "zwölf → ✓\n"
