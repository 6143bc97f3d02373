"""The picture at the head of the report: base, final, teacher and bounds on one scale of accuracy."""

from __future__ import annotations

from html import escape

from xopd.report.palette import PAGE_INK, PAGE_LINE, PAGE_OF, PAGE_QUIET, PAGE_TEACHER
from xopd.report.records import Score, Summary

WIDTH, LEFT, RIGHT, ROW = 1000, 96, 74, 46


def scale_svg(summary: Summary, ceiling: float | None = None) -> str:
    """An arrow from base to final for each part, with 95 % intervals; the teacher's text score as a line.

    Args:
        summary: the finished run.
        ceiling: the information ceiling as a share, or None.
    """
    pairs = [
        (part, getattr(summary.base, part), getattr(summary.final, part))
        for part in ("speech", "text", "retention")
        if getattr(summary.base, part) is not None and getattr(summary.final, part) is not None
    ]
    if not pairs:
        return ""
    top, bottom = 46, 46 + ROW * len(pairs)
    marks = [summary.teacher.text.accuracy] if summary.teacher.text is not None else []
    low = _floor([s for _, base, final in pairs for s in (base, final)], [*marks, *([ceiling] if ceiling else [])])

    def _x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (100 * share - low) / (100 - low)

    parts = [f'<svg class="gap" viewBox="0 0 {WIDTH} {bottom + 30}" role="img" aria-label="accuracy before and after">']
    for tick in range(low, 101, 10):
        x = _x(tick / 100)
        parts.append(f'<line x1="{x:.1f}" y1="{top - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{PAGE_LINE}"/>')
        parts.append(_text(x, bottom + 20, f"{tick} %", PAGE_QUIET, 12, "middle"))
    if summary.teacher.text is not None:
        parts += _mark(_x(summary.teacher.text.accuracy), top, bottom, "text-only teacher", PAGE_TEACHER, "4 3", 14)
    if ceiling is not None:
        reference = summary.teacher.text.accuracy if summary.teacher.text is not None else 1.0
        side = "end" if ceiling < reference else "start"
        parts += _mark(_x(ceiling), top, bottom, "information ceiling", PAGE_QUIET, "1 3", 30, side)
    for row, (part, base, final) in enumerate(pairs):
        parts += _arrow(part, base, final, top + ROW * row + ROW / 2, _x)
    return "".join([*parts, "</svg>"])


def _arrow(part: str, base: Score, final: Score, y: float, x_of: object) -> list[str]:
    assert callable(x_of)
    colour = PAGE_OF[part]
    start, end = x_of(base.accuracy), x_of(final.accuracy)
    drawn = [_text(0, y + 5, part, colour, 15, "start", 600)]
    if final.ci95 is not None:
        a, b = (x_of(value) for value in final.ci95)
        drawn.append(f'<rect x="{a:.1f}" y="{y - 9}" width="{b - a:.1f}" height="18" fill="{colour}" opacity=".16"/>')
    drawn.append(f'<line x1="{start:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}" stroke="{colour}" stroke-width="3"/>')
    drawn.append(f'<circle cx="{start:.1f}" cy="{y}" r="5.5" fill="#fcfcfa" stroke="{colour}" stroke-width="2.5"/>')
    drawn.append(f'<circle cx="{end:.1f}" cy="{y}" r="6.5" fill="{colour}"/>')
    if abs(end - start) > 24:
        drawn.append(_text(start, y - 13, f"{100 * base.accuracy:.0f}", PAGE_QUIET, 12.5, "middle"))
    rightmost = max(start, end, *(x_of(value) for value in final.ci95 or ()))
    drawn.append(_text(rightmost + 12, y + 5, f"{100 * final.accuracy:.1f} %", PAGE_INK, 15, "start", 650))
    return drawn


def _mark(
    x: float, top: int, bottom: int, label: str, colour: str, dash: str, y: int, anchor: str = "middle"
) -> list[str]:
    return [
        f'<line x1="{x:.1f}" y1="{y + 4}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}" stroke-dasharray="{dash}"'
        ' stroke-width="1.6"/>',
        _text(x + {"end": 4, "start": -4}.get(anchor, 0), y, label, colour, 12.5, anchor),
    ]


def _floor(scores: list[Score], marks: list[float]) -> int:
    lowest = min(*(score.ci95[0] if score.ci95 else score.accuracy for score in scores), *marks)
    return max(0, int(100 * lowest - 6) // 10 * 10)


def _text(x: float, y: float, text: str, colour: str, size: float, anchor: str, weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"'
        f' font-weight="{weight}">{escape(text)}</text>'
    )
