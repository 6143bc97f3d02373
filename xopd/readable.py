"""Output for any terminal and any log: what its encoding has not is written in ASCII, as near as it can be read.

Without it a ✓ or → ends a command with a traceback where the encoding is ASCII, Latin-1 or a Windows code page.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys
import unicodedata

ERRORS = "xopd.readable"
"""Name of the codecs' error handler."""
IN_UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
"""Environment of a Python program whose output is a file: files are UTF-8, whatever the terminal is."""
IN_ASCII = {
    **dict(zip("✓✔✕✖✗●○◌■□▪▶▸►◆•", "++xxx*oo##*>>>**", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉", "_.:-=+*#|||||||", strict=True)),
    **dict(zip("‘’‚‛“”„‟′″‐‑‒–—―−·×÷", "''''\"\"\"\"'\"-------.x/", strict=True)),
    **{"…": "...", "→": "->", "←": "<-", "↔": "<->", "⇒": "=>", "↑": "^", "↓": "v", "≤": "<=", "≥": ">=", "≠": "!="},
    **{"≈": "~", "±": "+-", "‖": "||", "∞": "inf", "√": "sqrt", "∑": "sum", "Σ": "sum", "∇": "grad", "∂": "d"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda"},
    **{"μ": "mu", "µ": "u", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi"},
    **{"«": '"', "»": '"', "°": "deg", "§": "section ", "€": "EUR", "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o"},
    **{"Ø": "O", "ł": "l", "Ł": "L"},
}


def use_readable_output() -> None:
    """Have standard output and standard error write what they can, and the rest in ASCII. May be called again.

    In a locale whose encoding is ASCII the program is started again, as the same process, in Python's UTF-8 mode: torch
    reads its own source files by the locale, and file names would be bytes. Its output stays ASCII.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name == "ascii":
        environment = {"PYTHONIOENCODING": "ascii", **os.environ, "PYTHONUTF8": "1"}
        again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, again, environment)  # noqa: S606 # nosec B606
    codecs.register_error(ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        # What is no such stream, as in a test or where there is no output, is somebody else's.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def in_ascii(character: str) -> str:
    """A character in ASCII: what looks or reads like it, without its accents, else a question mark."""
    if character in IN_ASCII:
        return IN_ASCII[character]
    if "\u2500" <= character <= "\u257f":
        words = set(unicodedata.name(character).split())
        return "+" if words & {"AND", "ARC", "DIAGONAL"} else "-" if words & {"HORIZONTAL", "LEFT", "RIGHT"} else "|"
    plain = "".join(part for part in unicodedata.normalize("NFKD", character) if part.isascii())
    return plain or ("" if unicodedata.combining(character) else "?")


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    first = error.object[error.start]
    if "\udc80" <= first <= "\udcff" and not error.encoding.lower().startswith("utf"):
        # A byte of a file's name that Python could not read: written back as it came.
        return bytes([ord(first) - 0xDC00]), error.start + 1
    return in_ascii(first), error.start + 1
