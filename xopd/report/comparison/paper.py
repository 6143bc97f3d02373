"""The paper's own figures (arXiv 2603.24596, tables 1 to 3), shown beside ours for orientation only."""

from __future__ import annotations

from xopd.report.comparison.read import Entry

SOURCE = "arXiv 2603.24596"
DROPS: dict[str, tuple[float, float]] = {
    "base": (11.29, 5.51),
    "sft": (22.76, 17.49),
    "offline_kd": (19.62, 15.02),
    "gkd": (20.23, 15.81),
    "xopd": (3.43, 0.97),
    "text_only": (6.91, 2.43),
    "speech_only": (5.08, 2.52),
    "larger_teacher": (5.55, 2.23),
}
"""Drop of speech and of text against the text-only teacher (%)."""
RETENTION: dict[str, str] = {"base": "71.3", "sft": "60.3", "offline_kd": "59.9", "gkd": "60.0", "xopd": "69.3 to 70.7"}
"""Accuracy on MMAR (%)."""
DEGRADED = ("sft", "offline_kd", "gkd")
"""Methods that end below the base in the paper, in speech, text and retention."""


def row_of(entry: Entry) -> str | None:
    """The paper's row of the same method and variant, as a key of DROPS; None where it has none."""
    if entry.method != "xopd":
        return entry.method if entry.method in DROPS else None
    weight = entry.settings.get("objective.lambda")
    if weight in (0, 1):
        return "speech_only" if weight else "text_only"
    if entry.group == "methods":
        return "xopd"
    return "larger_teacher" if "teacher" in f"{entry.name} {entry.label}".lower() else None
