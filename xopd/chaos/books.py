"""An audit, and what chaos came to, as a person reads them."""

from __future__ import annotations

from statistics import median

from rich.console import Console
from rich.table import Table

from xopd.chaos.run import ChaosReport
from xopd.ledger.audit import Audit

CAUSES = {
    "failed": "a pod could not answer",
    "stale": "the answer was unusable or of an earlier life",
    "overdue": "unanswered too long",
    "forgotten": "Redis came back empty",
    "duplicate": "answered already",
}


def print_audit(console: Console, run: str, audit: Audit) -> None:
    """The sum, how it came about, and the verdict."""
    lives = "1 life" if audit.lives == 1 else f"{audit.lives} lives"
    console.print(f"{run}: {audit.steps:,} steps, {lives} of the trainer", style="bold")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_row(f"{audit.dispatched:,}", "groups dispatched")
    table.add_row(f"= {audit.trained:,}", f"trained, each in one step ({audit.trajectories_trained:,} trajectories)")
    table.add_row(f"+ {audit.dead:,}", "dead-lettered")
    table.add_row(f"+ {audit.open:,}", "under way")
    table.add_row(f"+ {audit.lost:,}", "lost", style="red" if audit.lost else "")
    if audit.supplied:
        table.add_row(f"{audit.supplied:,}", "further groups trained on supplied responses")
    console.print(table)
    for heading, counts in (("sent again", audit.sent_again), ("answers dropped", audit.dropped)):
        parts = [f"{n:,} {CAUSES[kind]}" for kind, n in counts.items()]
        console.print(f"{heading}: {'; '.join(parts) or 'none'}")
    if audit.undone:
        console.print(f"taken back by restarts: {audit.undone:,} groups, dispatched again since or still to be")
    steps = ", ".join(str(step) for step in audit.checkpoints)
    console.print(f"checkpoints that agree with the ledger: {f'steps {steps}' if steps else 'none'}")
    for reason, n in audit.dead_reasons.items():
        console.print(f"  dead-lettered {n:,}: {reason}")
    if audit.closes:
        console.print("The books close: 0 lost, 0 trained twice.", style="green")
    for finding in audit.findings:
        console.print(f"does not close: {finding}", style="red")


def print_chaos(console: Console, run: str, report: ChaosReport) -> None:
    """What happened, how soon the run went on, the closing audit, and the verdict."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("fault")
    for heading in ("times", "going on after, median", "longest"):
        table.add_column(heading, justify="right")
    by_fault: dict[str, list[float]] = {}
    for one in report.happened:
        by_fault.setdefault(one.fault, []).append(one.recovery_s)
    for fault, seconds in sorted(by_fault.items()):
        table.add_row(fault, str(len(seconds)), f"{median(seconds):.1f} s", f"{max(seconds):.1f} s")
    console.print()
    console.print(table)
    console.print(f"undisturbed, two steps take {report.quiet_s:.1f} s\n")
    if report.audit is not None:
        print_audit(console, run, report.audit)
    for finding in report.findings:
        console.print(f"should not be: {finding}", style="red")
    verdict = "passed" if report.passed else "failed"
    seed = "each fault once" if report.seed is None else f"seed {report.seed}"
    style = "green" if report.passed else "red"
    console.print(f"chaos, {seed}: {len(report.happened)} faults, {verdict}", style=style)
