"""What a comparison's cells say: means and spreads over seeds, drops, gap closed, and paired intervals over items.

Two kinds of noise stand beside each other. The standard deviation over seeds shows what another training run would
change; the bootstrap interval over items, in which an item's value is its mean over seeds, shows what other questions
would change. Neither holds the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xopd.evals.gap import share_closed, speech_gap
from xopd.evals.intervals import Accuracy, PairedDifference, accuracy_of, bootstrap_mean, paired_bootstrap
from xopd.report.comparison.read import PARTS, Comparison, Entry, Part, Verdicts
from xopd.report.run import ceiling_of


@dataclass(frozen=True)
class OverSeeds:
    """One figure over an entry's seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation (n - 1 in the denominator); None for a single seed."""
    low: float
    high: float
    values: tuple[float, ...]
    """By seed, in the order of the entry's seeds."""

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.values)


@dataclass(frozen=True)
class EntryFigures:
    """The figures of one entry's trained students; a part that was not evaluated is left out."""

    entry: Entry
    seeds: tuple[int, ...]
    scores: dict[Part, OverSeeds]
    """Shares of right answers on the test split."""
    items: dict[Part, tuple[float, float]]
    """95 % interval of the mean score over items, each item's value being its mean over seeds."""
    drops: dict[Part, OverSeeds]
    """Relative loss of speech and text against the first teacher's text score (%)."""
    paired: dict[Part, PairedDifference]
    """Final minus base over the same items, each item's value being its mean over seeds."""
    gap_closed: OverSeeds | None
    """(final - base) / (teacher's text - base) of speech, by seed; None where the gap may be chance."""
    teacher: Accuracy | None
    """The text score of the entry's own teacher, where it is another one than the reference's."""


@dataclass(frozen=True)
class Figures:
    """The figures of a comparison."""

    comparison: Comparison
    """The records that they are made from."""
    teacher: Accuracy | None
    """The text score of the reference's teacher, which every drop is measured against."""
    base: dict[Part, Accuracy]
    base_drops: dict[Part, float]
    """In percent."""
    gap: PairedDifference | None
    """The teacher's text score minus the base's speech score, over the same items."""
    ceiling: float | None
    """The information ceiling, a share: what the frozen audio tower lets through."""
    entries: list[EntryFigures] = field(default_factory=list)
    """All, those without a finished cell included."""

    def of(self, name: str) -> EntryFigures:
        """The figures of the entry `name`. Raises KeyError if there is none."""
        for figures in self.entries:
            if figures.entry.name == name:
                return figures
        raise KeyError(name)


def over_seeds(values: Sequence[float]) -> OverSeeds | None:
    """Mean, sample standard deviation and range; None without values."""
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return OverSeeds(statistics.fmean(values), sd, min(values), max(values), tuple(values))


def drop(reference: float, share: float) -> float:
    """Relative loss against the text-only teacher, in percent. Raises ZeroDivisionError for a teacher at 0."""
    return 100.0 * (reference - share) / reference


def figures_of(comparison: Comparison) -> Figures:
    """All figures of a comparison."""
    begun = comparison.cells
    reference = [cell for cell in begun if cell.entry == comparison.manifest.reference]
    teacher = next((cell.teacher["text"] for cell in [*reference, *begun] if "text" in cell.teacher), None)
    # Every cell starts from the same student: one evaluation of it is as good as another.
    base = next((cell.base for cell in [*reference, *begun] if cell.base), {})
    teacher_score = accuracy_of(list(teacher.values())) if teacher else None
    base_scores = {part: accuracy_of(list(base[part].values())) for part in PARTS if part in base}
    gap = speech_gap(base.get("speech", {}), teacher or {})
    return Figures(
        comparison,
        teacher_score,
        base_scores,
        {part: drop(teacher_score.accuracy, base_scores[part].accuracy) for part in _dropping(base_scores)}
        if teacher_score is not None and teacher_score.accuracy
        else {},
        gap,
        _ceiling(comparison),
        [_entry_figures(comparison, entry, teacher, base, gap) for entry in comparison.manifest.entries],
    )


def item_means(runs: Sequence[Verdicts]) -> dict[str, float]:
    """Share of the runs that answered an item rightly, by item; only items that all runs answered."""
    if not runs:
        return {}
    shared = set(runs[0]).intersection(*runs[1:])
    return {item: statistics.fmean(float(run[item]) for run in runs) for item in sorted(shared)}


def ranges_apart(one: OverSeeds, other: OverSeeds) -> bool:
    """Whether every seed of the one lies on the same side of every seed of the other."""
    return one.low > other.high or other.low > one.high


def _entry_figures(
    comparison: Comparison,
    entry: Entry,
    teacher: Verdicts | None,
    base: Mapping[Part, Verdicts],
    gap: PairedDifference | None,
) -> EntryFigures:
    cells = comparison.of(entry.name)
    reference = _share(teacher) if teacher else 0.0
    scores: dict[Part, OverSeeds] = {}
    drops: dict[Part, OverSeeds] = {}
    items: dict[Part, tuple[float, float]] = {}
    paired: dict[Part, PairedDifference] = {}
    for part in PARTS:
        runs = [cell.final[part] for cell in cells if part in cell.final]
        found = over_seeds([_share(run) for run in runs])
        if found is None:
            continue
        scores[part] = found
        means = item_means(runs)
        if means:
            items[part] = bootstrap_mean(list(means.values()))
        shared = [item for item in means if item in base.get(part, {})]
        if shared:
            paired[part] = paired_bootstrap([base[part][i] for i in shared], [means[i] for i in shared])
        if reference and (fallen := over_seeds([drop(reference, value) for value in found.values])) is not None:
            drops[part] = fallen
    closed = None
    if "speech" in scores and "speech" in base:
        before = _share(base["speech"])
        shares = [share_closed(value - before, gap) for value in scores["speech"].values]
        closed = over_seeds([share for share in shares if share is not None])
    own = next((cell.teacher["text"] for cell in cells if "text" in cell.teacher), None)
    # Methods share one teacher; only an ablation may change it.
    other = own is not None and entry.group == "ablation" and own != teacher
    return EntryFigures(
        entry,
        tuple(cell.seed for cell in cells),
        scores,
        items,
        {part: drops[part] for part in _dropping(drops)},
        paired,
        closed,
        accuracy_of(list(own.values())) if own and other else None,
    )


def _share(verdicts: Verdicts) -> float:
    return sum(verdicts.values()) / len(verdicts)


def _dropping(parts: Iterable[Part]) -> list[Part]:
    # Retention has no score of the teacher's to drop from.
    return [part for part in parts if part != "retention"]


def _ceiling(comparison: Comparison) -> float | None:
    found = (ceiling_of(cell.run.summary) for cell in comparison.cells if cell.run.summary is not None)
    return next((ceiling for ceiling in found if ceiling is not None), None)
