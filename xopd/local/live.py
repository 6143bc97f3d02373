"""The live view of a run on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from xopd.local.plain import PlainView
from xopd.local.supervisor import Managed, Supervisor
from xopd.local.view import Scene, View
from xopd.report.records import EvalRecord, ModalityStep, Score, StepRecord
from xopd.report.style import QUIET, RETENTION, SPEECH, STAGES, TEXT, count, duration, percent, sparkline
from xopd.security import Credentials
from xopd.status.model import RunStatus

STATES = {
    "ready": ("●", "green"),
    "starting": ("◌", "yellow"),
    "unready": ("●", "yellow"),
    "waiting": ("◌", "red"),
    "stopping": ("◌", "yellow"),
    "ended": ("○", QUIET),
    "failed": ("✕", "red"),
}
NARROW = 96
"""Below so many columns the two halves stand one above the other."""


class LiveView(View):
    """Redraws the whole view about twice a second."""

    def __init__(self, console: Console, scene: Scene) -> None:
        """Draw on `console`."""
        super().__init__(console, scene)
        # auto_refresh would start a thread beside a process that forks.
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def event(self, sentence: str) -> None:
        """Kept in the view's last lines."""
        self.scene.events.append((self.scene.elapsed_s, sentence))

    def refresh(self) -> None:
        """Draw it anew."""
        self._live.update(render(self.scene, self.console.width), refresh=True)

    async def show(self, supervisor: Supervisor, credentials: Credentials) -> None:
        """Draw until cancelled, and once more then: the end stays on the screen."""
        with self._live:
            try:
                await super().show(supervisor, credentials)
            finally:
                self.refresh()


def render(scene: Scene, width: int = 100) -> RenderableType:
    """The whole view."""
    status = scene.status
    parts: list[RenderableType] = [_head(scene, width)]
    if status is not None:
        halves = [_scores(status), _signals(status)]
        parts += ["", _side_by_side(halves) if width >= NARROW else Group(halves[0], "", halves[1])]
        if status.latest is not None:
            parts += ["", _stages(status.latest)]
    parts += ["", _fleet(scene)]
    if status is not None and status.accounts.dispatched:
        parts += ["", _accounts(status)]
    if scene.events:
        parts += ["", *(_event(at, sentence) for at, sentence in scene.events)]
    return Padding(Group(*parts), (0, 1))


def _head(scene: Scene, width: int) -> RenderableType:
    status = scene.status
    title = Text.assemble(("X-OPD ", "bold"), (scene.run, "bold"), ("  " + scene.phase, ""))
    if status is not None and status.phase != "training" and status.progress is not None and status.progress.total:
        title.append(f"  {status.progress.done}/{status.progress.total}", style=QUIET)
    step = status.step if status is not None else 0
    steps = (status.steps if status is not None else 0) or scene.steps
    bar = Table.grid(padding=(0, 2), expand=False)
    left = f"{duration(status.eta_s)} left" if status is not None and status.eta_s is not None and step < steps else ""
    bar.add_row(
        ProgressBar(total=steps, completed=step, width=max(20, min(48, width - 52)), complete_style=SPEECH),
        Text(f"step {step}/{steps}"),
        Text(left),
        Text(f"{duration(scene.elapsed_s)} so far", style=QUIET),
    )
    return Group(Rule(title, align="left", style=QUIET), bar)


def _scores(status: RunStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("accuracy", no_wrap=True, min_width=14)
    for name, style in (("speech", SPEECH), ("text", TEXT), ("retention", RETENTION)):
        table.add_column(name, justify="right", style=style, no_wrap=True, min_width=7)
    table.add_row("teacher, text", *_cells(None, status.teacher_text, None))
    tests = [record for record in status.evals if record.split != "dev"]
    devs = [record for record in status.evals if record.split == "dev"]
    base = next((record for record in tests if record.step == 0), None)
    final = next((record for record in reversed(tests) if record.step > 0), None)
    table.add_row("base", *_eval_cells(base))
    for record in devs[-3:]:
        table.add_row(f"dev, step {record.step}", *_eval_cells(record))
    if final is not None:
        table.add_row("final", *_eval_cells(final), style="bold")
    return table


def _eval_cells(record: EvalRecord | None) -> tuple[Text, ...]:
    scores = record.scores if record is not None else {}
    return _cells(scores.get("speech"), scores.get("text"), scores.get("retention"))


def _cells(*scores: Score | None) -> tuple[Text, ...]:
    return tuple(Text(percent(score.accuracy)) if score is not None else Text("–", style=QUIET) for score in scores)


def _signals(status: RunStatus) -> Table:
    latest = status.latest
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"step {latest.step}" if latest is not None else "step", no_wrap=True, min_width=16)
    table.add_column("speech", justify="right", style=SPEECH, no_wrap=True, min_width=8)
    table.add_column("text", justify="right", style=TEXT, no_wrap=True, min_width=8)
    table.add_column("", no_wrap=True)
    speech, text = (latest.speech, latest.text) if latest is not None else (None, None)
    for name, read, form, unit in SIGNALS:
        figures = (_figure(None if step is None else read(step), form) for step in (speech, text))
        table.add_row(name, *figures, Text(unit, style=QUIET))
    history = status.history
    lines = [sparkline(history.kl_speech, 12), sparkline(history.kl_text, 12)]
    if any(lines):
        table.add_row("KL, last steps", *(Text(line) for line in lines), "")
    return table


SIGNALS: tuple[tuple[str, Callable[[ModalityStep], float | None], str, str], ...] = (
    ("advantage", lambda step: step.advantage.mean if step.advantage else None, ".3f", "nats"),
    ("KL to teacher", lambda step: step.kl, ".3f", "nats a token"),
    ("entropy", lambda step: step.entropy, ".3f", "nats"),
    ("length", lambda step: step.length, ".1f", "tokens"),
    ("truncated", lambda step: step.truncated, ".1%", ""),
)
"""What a step shows of each modality: a name, where it stands, its format and its unit."""


def _figure(value: float | None, form: str) -> Text:
    return Text("–", style=QUIET) if value is None else Text(f"{value:{form}}".replace("%", " %"))


def _stages(latest: StepRecord) -> RenderableType:
    total = latest.seconds.get("total") or sum(latest.seconds.get(stage, 0.0) for stage in STAGES) or 1.0
    bar, legend = Text(), Text()
    for stage, colour in STAGES.items():
        seconds = latest.seconds.get(stage, 0.0)
        bar.append("█" * round(48 * seconds / total), style=colour)
        legend.append("■ ", style=colour)
        legend.append(f"{stage} {seconds:.2f} s  ")
    head = Text(f"{total:.2f} s a step  ", style="bold")
    learning = "   ".join(
        f"{name} {value:{form}}"
        for name, value, form in (
            ("loss", latest.loss, ".3f"),
            ("gradient norm", latest.grad_norm, ".2f"),
            ("learning rate", latest.learning_rate, ".1e"),
        )
        if value is not None
    )
    rates = latest.tokens_per_s
    speeds = "   ".join(f"{name} {count(rates[name])}" for name in ("rollout", "teacher", "trainer") if name in rates)
    return Group(Text(learning), "", head + bar, legend, Text(f"tokens/s: {speeds}", style=QUIET) if speeds else "")


def _fleet(scene: Scene) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading, justify in (("process", "left"), ("state", "left"), ("weights", "right"), ("in flight", "right")):
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("restarts", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style=QUIET)
    status = scene.status
    pods = {pod.pod_id: pod for pod in status.pods} if status is not None else {}
    for managed in scene.processes.values():
        pod = pods.pop(managed.spec.name, None)
        about = pod.engine_version if pod is not None else _about(managed, status)
        table.add_row(
            managed.spec.name,
            _state(managed),
            f"v{pod.policy_version}" if pod is not None else "",
            str(pod.in_flight) if pod is not None else "",
            str(managed.restarts) if managed.restarts else "",
            about,
        )
    for pod in pods.values():
        state = Text("● draining", style="yellow") if pod.draining else Text("● elsewhere", style="green")
        table.add_row(pod.pod_id, state, f"v{pod.policy_version}", str(pod.in_flight), "", pod.engine_version)
    return table


def _about(managed: Managed, status: RunStatus | None) -> str:
    if managed.spec.role == "teacher" and status is not None and status.teachers:
        return status.teachers[0].engine
    return ""


def _state(managed: Managed) -> Text:
    mark, style = STATES[managed.state]
    word = "restarting" if managed.state == "waiting" else managed.state
    return Text.assemble((mark + " ", style), word)


def _accounts(status: RunStatus) -> Text:
    accounts = status.accounts
    text = Text(f"trajectories: dispatched {count(accounts.dispatched)} · trained {count(accounts.trained)}")
    text.append(f" · under way {count(accounts.under_way)} · ")
    text.append(f"lost {count(accounts.lost)}", style="red" if accounts.lost else "")
    text.append(f" · duplicates {count(accounts.duplicates_dropped)} · stale {count(accounts.stale_dropped)}")
    return text


def _event(at: float, sentence: str) -> Text:
    return Text(f"{at:6.0f} s  {sentence}", style=QUIET, overflow="ellipsis", no_wrap=True)


def _side_by_side(halves: list[Table]) -> Table:
    grid = Table.grid(padding=(0, 4))
    grid.add_row(*halves)
    return grid


def make_view(console: Console, run: str, steps: int, plain: bool) -> View:
    """The live view on a terminal, plain lines elsewhere or when asked for."""
    scene = Scene(run, steps)
    return PlainView(console, scene) if plain or not console.is_terminal else LiveView(console, scene)
