"""How a comparison is shown while it runs: how many runs are done, what each lane does, and how long it will take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from xopd.comparison.cells import Progress
from xopd.report.style import QUIET, SPEECH, duration
from xopd.status.model import PHASES

MARKS = {"waiting": ("·", QUIET), "running": ("▸", "yellow"), "finished": ("●", "green"), "failed": ("✕", "red")}
PLAIN_EVERY_S = 15.0
STEP_SHARE = 0.85
"""Guess of how much of a run is training steps; the rest is starting and evaluating."""


def time_left(cells: Sequence[Progress], jobs: int) -> float | None:
    """Seconds until the last run has ended, from what finished runs of the same entry took; None before the first."""
    known: dict[str, list[float]] = {}
    for cell in cells:
        if cell.seconds is not None:
            known.setdefault(cell.cell.entry.name, []).append(cell.seconds)
    if not known:
        return None
    every = [seconds for each in known.values() for seconds in each]
    left = 0.0
    for cell in cells:
        if cell.state in ("waiting", "running"):
            like = known.get(cell.cell.entry.name, every)
            left += (1.0 - STEP_SHARE * _share(cell)) * sum(like) / len(like)
    return left / jobs


def running_line(cell: Progress) -> str:
    """One run under way: `gkd seed 1: training, step 40/100`."""
    phase = PHASES.get(cell.phase, cell.phase.replace("_", " ")) or "starting"
    steps = f", step {cell.step}/{cell.cell.config.run.steps}" if cell.step else ""
    return f"{cell.cell.name}: {phase}{steps}"


def _share(cell: Progress) -> float:
    return cell.step / cell.cell.config.run.steps


class ComparisonView:
    """A matrix of entries and seeds, redrawn about twice a second; plain lines where there is no terminal."""

    def __init__(self, console: Console, name: str, cells: Sequence[Progress], jobs: int, plain: bool = False) -> None:
        """Draw on `console`; with `plain` print lines even on a terminal."""
        self.console = console
        self.name = name
        self.cells = cells
        self.jobs = jobs
        self.plain = plain or not console.is_terminal
        self._events: deque[str] = deque(maxlen=4)
        self._began = time.monotonic()

    def event(self, sentence: str) -> None:
        """Something happened: a line, or one of the view's last."""
        line = f"{time.monotonic() - self._began:6.0f} s  {sentence}"
        self._events.append(line)
        if self.plain:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    async def show(self) -> None:
        """Show it until cancelled."""
        while self.plain:
            await asyncio.sleep(PLAIN_EVERY_S)
            running = [running_line(cell) for cell in self.cells if cell.state == "running"]
            left = time_left(self.cells, self.jobs)
            self.event("; ".join([self._done(), *running, *([f"{duration(left)} left"] if left else [])]))
        with Live(console=self.console, auto_refresh=False, vertical_overflow="crop") as live:
            try:
                while True:
                    live.update(self.render(), refresh=True)
                    await asyncio.sleep(0.5)
            finally:
                live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """The whole view."""
        done = sum(1.0 if cell.state == "finished" else _share(cell) for cell in self.cells)
        left = time_left(self.cells, self.jobs)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=len(self.cells), completed=done, width=40, complete_style=SPEECH),
            Text(self._done()),
            Text(f"{duration(left)} left" if left is not None else "", style="bold"),
            Text(f"{duration(time.monotonic() - self._began)} so far", style=QUIET),
        )
        running = [Text("▸ " + running_line(cell)) for cell in self.cells if cell.state == "running"]
        title = Text.assemble(("X-OPD comparison ", "bold"), (self.name, "bold"))
        rule = Rule(title, align="left", style=QUIET)
        events = [Text(event, style=QUIET, overflow="ellipsis", no_wrap=True) for event in self._events]
        return Padding(Group(rule, head, "", self._matrix(), "", *running, *([""] if events else []), *events), (0, 1))

    def _done(self) -> str:
        return f"{sum(cell.state == 'finished' for cell in self.cells)}/{len(self.cells)} runs"

    def _matrix(self) -> Table:
        seeds = list(dict.fromkeys(cell.cell.seed for cell in self.cells))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("method", no_wrap=True)
        for seed in seeds:
            table.add_column(f"seed {seed}", no_wrap=True)
        rows: dict[str, dict[int, Progress]] = {}
        for cell in self.cells:
            rows.setdefault(cell.cell.entry.label, {})[cell.cell.seed] = cell
        for label, by_seed in rows.items():
            table.add_row(label, *(_state(by_seed[seed]) if seed in by_seed else Text("") for seed in seeds))
        return table


def _state(cell: Progress) -> Text:
    mark, style = MARKS[cell.state]
    about = ""
    if cell.state == "running":
        about = f" {100 * _share(cell):.0f} %"
    elif cell.seconds is not None:
        about = f" {duration(cell.seconds)}"
    return Text(mark + about, style=style)
