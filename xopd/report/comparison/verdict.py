"""What a comparison shows and what it does not, in plain words built from its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xopd.evals.gap import why_no_share
from xopd.report.comparison.read import PARTS
from xopd.report.comparison.statistics import EntryFigures, Figures, OverSeeds, ranges_apart
from xopd.report.tables import Number

ENOUGH_SEEDS = 3
"""With fewer the text claims nothing about methods."""
DEGRADED = ("sft", "offline_kd", "gkd")
"""Methods that end below the base in the paper, in speech, text and retention."""
RETENTION_MARGIN = 3.0
"""Points below the base that still count as kept."""


def headline(figures: Figures) -> str:
    """The outcome in one line."""
    name, found = figures.comparison.reference.title, figures.of(figures.comparison.manifest.reference)
    closed = found.gap_closed
    if not found.scores:
        return f"{name} against {len(figures.comparison.manifest.entries) - 1} others: not finished"
    if closed is None:
        return f"{name}: {_why_no_share(figures)}"
    if not proves_something(figures):
        return f"A smoke test of {len(figures.comparison.manifest.entries)} trainings: it proves nothing about methods"
    if closed.mean <= 0:
        return f"{name} does not narrow the gap between speech and the text-only teacher"
    return f"{name} closes {_share(closed.mean)} of the gap between speech and the text-only teacher"


def verdict(figures: Figures) -> list[str]:
    """Paragraphs: what the reference reached, whether the baselines degraded, who differs, and what bounds all this."""
    found = figures.of(figures.comparison.manifest.reference)
    if not found.scores:
        return [
            f"No training of {figures.comparison.reference.title} is finished yet, so there is nothing to conclude."
        ]
    paragraphs = [
        _warning(figures),
        _join(_gap(figures, found), _text(figures, found), _retention(figures, found)),
        _baselines(figures),
        _join(_apart(figures), _better_elsewhere(figures)),
        _join(_limits(figures), _unfinished(figures)),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def proves_something(figures: Figures) -> bool:
    """Whether there are enough seeds of the reference, at full length, to speak about methods."""
    return (
        not figures.comparison.manifest.quick
        and len(figures.of(figures.comparison.manifest.reference).seeds) >= ENOUGH_SEEDS
    )


def _why_no_share(figures: Figures) -> str:
    if figures.gap is None:
        return "no item was asked of the base student and of the text-only teacher, so no share of the gap is given"
    return why_no_share(figures.gap.mean_difference, figures.gap.ci95)


def _warning(figures: Figures) -> str:
    if proves_something(figures):
        return ""
    n = len(figures.of(figures.comparison.manifest.reference).seeds)
    reasons = ["it was run in the short form"] if figures.comparison.manifest.quick else []
    if n < ENOUGH_SEEDS:
        reasons.append(f"it holds {n} seed{'' if n == 1 else 's'}")
    return (
        f"This is a smoke test, since {' and '.join(reasons)}: its figures show that everything runs, and prove"
        " nothing about methods."
    )


def _gap(figures: Figures, found: EntryFigures) -> str:
    speech, closed, teacher = found.scores.get("speech"), found.gap_closed, figures.teacher
    if speech is None or teacher is None or "speech" not in figures.base:
        return ""
    before, after = _share(figures.base["speech"].accuracy, 1), _share(speech.mean, 1)
    moved = (
        f"Asked by voice, the student goes from {before} right to {after} with {found.entry.title}; the teacher, who"
        f" reads the questions, reaches {_share(teacher.accuracy, 1)}."
    )
    if closed is None:
        why = _why_no_share(figures)
        return f"{moved} {why[0].upper()}{why[1:]}."
    if closed.mean <= 0:
        return f"{moved} That closes none of the gap: the share is {_share(closed.mean)} ({_over(closed)})."
    return f"{moved} That closes {_share(closed.mean)} of the gap ({_over(closed)})."


def _text(figures: Figures, found: EntryFigures) -> str:
    difference = found.paired.get("text")
    if difference is None:
        return ""
    low, high = difference.ci95
    moved, interval = _points(difference.mean_difference), f"95 % interval {_points(low)} to {_points(high)}"
    if high < 0:
        return f"Its text score falls below the base student’s ({moved} points; {interval})."
    if difference.mean_difference < 0:
        return (
            f"Its text score is slightly below the base student’s, by no more than chance ({moved} points; {interval})."
        )
    return f"Its text score is not below the base student’s ({moved} points; {interval})."


def _retention(figures: Figures, found: EntryFigures) -> str:
    score = found.scores.get("retention")
    if score is None or "retention" not in figures.base:
        return ""
    change = 100 * (score.mean - figures.base["retention"].accuracy)
    kept = "is kept" if change >= -RETENTION_MARGIN else "is lost"
    bound = f"within {RETENTION_MARGIN:g} points of" if kept == "is kept" else f"over {RETENTION_MARGIN:g} points below"
    return f"Retention, the skills that are not trained on, {kept}: {_points(change / 100)} points, {bound} the base."


def _baselines(figures: Figures) -> str:
    """Which of the paper's baselines degraded here as they did there."""
    cases: dict[str, list[str]] = {"so": [], "in part": [], "not so": []}
    for found in figures.entries:
        if found.entry.group != "methods" or found.entry.method not in DEGRADED or not found.paired:
            continue
        below = [part for part in PARTS if part in found.paired and found.paired[part].ci95[1] < 0]
        case = "not so" if not below else "so" if len(below) == len(found.paired) else "in part"
        moves = ", ".join(
            f"{part} {_points(found.paired[part].mean_difference)}" for part in PARTS if part in found.paired
        )
        cases[case].append(f"{found.entry.title} ({moves})")
    if not any(cases.values()):
        return ""
    told = [f"{case} for {_listed(names)}" for case, names in cases.items() if names]
    return (
        "In the paper SFT, offline KD and GKD all end below the base student, in speech, text and retention. Here"
        f" that is {'; '.join(told)}. (Points against the base; below means that the 95 % interval over items"
        " lies under zero.)"
    )


def _apart(figures: Figures) -> str:
    """Whether the others' speech scores differ from the reference's by more than seeds do."""
    name = figures.comparison.manifest.reference
    mine = figures.of(name).scores.get("speech")
    if mine is None:
        return ""
    others = [
        (f.entry.title, f.scores["speech"])
        for f in figures.entries
        if f.entry.group == "methods" and f.entry.name != name and "speech" in f.scores
    ]
    known = [(title, other) for title, other in others if mine.n > 1 and other.n > 1]
    if not others:
        return ""
    if not known:
        return "With one seed the spread over seeds is unknown, so that no difference between methods can be judged."
    above = [_by(t, o, mine) for t, o in known if ranges_apart(mine, o) and mine.mean > o.mean]
    below = [_by(t, o, mine) for t, o in known if ranges_apart(mine, o) and mine.mean < o.mean]
    mixed = [_by(t, o, mine) for t, o in known if not ranges_apart(mine, o)]
    reference = figures.comparison.reference.title
    sentences = []
    if above:
        sentences.append(f"In speech every seed of {reference} lies above every seed of {_listed(above)}.")
    if below:
        sentences.append(f"In speech every seed of {reference} lies below every seed of {_listed(below)}.")
    if mixed:
        sentences.append(
            f"{'In speech it' if sentences else f'In speech {reference}'} cannot be told from {_listed(mixed)}: their"
            " seeds overlap."
        )
    if above or below:
        sentences.append(_chance([(mine.n, other.n) for _, other in known if ranges_apart(mine, other)]))
    return " ".join(sentences)


def _chance(pairs: Sequence[tuple[int, int]]) -> str:
    # Of all orders of n + m equally good seeds, two put one method's n wholly above or below the other's m.
    shares = {2 / math.comb(n + m, n) for n, m in pairs}
    upto = "in up to" if len(shares) > 1 else "in"
    return (
        f"(By chance alone two equally good methods would come apart like that {upto} {_share(max(shares))} of cases.)"
    )


def _better_elsewhere(figures: Figures) -> str:
    name = figures.comparison.manifest.reference
    mine = figures.of(name).scores
    found = []
    for part in ("text", "retention"):
        for other in figures.entries:
            score = other.scores.get(part)
            if other.entry.group != "methods" or other.entry.name == name or score is None or part not in mine:
                continue
            if min(score.n, mine[part].n) > 1 and score.low > mine[part].high:
                found.append(f"{other.entry.title} in {part} (by {100 * (score.mean - mine[part].mean):.1f} points)")
    return f"With every seed above {figures.comparison.reference.title} lies {_listed(found)}." if found else ""


def _limits(figures: Figures) -> str:
    manifest = figures.comparison.manifest
    seeds = len(figures.of(manifest.reference).seeds)
    sentences = [
        f"All this rests on {seeds} seed{'' if seeds == 1 else 's'} and on {manifest.about}.",
        *([manifest.limits] if manifest.limits else []),
    ]
    if figures.ceiling is not None:
        sentences.append(
            f"Whatever the method, speech is bounded at about {_share(figures.ceiling, 1)} by what the student’s frozen"
            " audio tower lets through (the information ceiling)."
        )
    return " ".join(sentences)


def _unfinished(figures: Figures) -> str:
    missing = sum(len(seeds) for _, seeds in figures.comparison.unfinished)
    planned = len(figures.comparison.manifest.seeds) * len(figures.comparison.manifest.entries)
    if not missing:
        return ""
    rest = "is not finished and counts nowhere" if missing == 1 else "are not finished and count nowhere"
    return f"{missing} of {planned} trainings {rest}."


def _by(title: str, other: OverSeeds, mine: OverSeeds) -> str:
    return f"{title} (by {abs(100 * (mine.mean - other.mean)):.1f} points)"


def _over(found: OverSeeds) -> str:
    if found.sd is None:
        return "one seed"
    return f"mean over {found.n} seeds, which range from {_share(found.low)} to {_share(found.high)}"


def _share(value: float, digits: int = 0) -> str:
    return f"{Number(100 * value, digits=digits)} %"


def _points(share: float) -> str:
    return str(Number(100 * share, signed=True))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _join(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
