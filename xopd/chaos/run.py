"""A local run under faults: in proxies' hands from the start, disturbed while it trains, audited after each fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xopd.chaos.faults import Appointment, Fault
from xopd.chaos.system import System, recovery_s
from xopd.errors import UserError
from xopd.ledger.audit import Audit, audit_run

STEPS_TO_RECOVER = 2
"""The first may have been under way already."""
RECOVERY_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Happened:
    """A fault that has been."""

    fault: str
    at_s: float
    """Seconds after the first step."""
    recovery_s: float
    """From its beginning until two further steps were taken; a fault that lasts counts with all of its length."""


@dataclass
class ChaosReport:
    """What came of it."""

    seed: int | None
    happened: list[Happened] = field(default_factory=list)
    quiet_s: float = 0.0
    """Time that two steps took before any fault (seconds)."""
    findings: list[str] = field(default_factory=list)
    """What should not have been, beside the audit's findings."""
    audit: Audit | None = None
    """The closing one."""

    @property
    def passed(self) -> bool:
        """Whether the run went on after every fault, and the books close."""
        return not self.findings and self.audit is not None and self.audit.closes

    def as_json(self) -> dict[str, Any]:
        """Everything, and the verdict."""
        return {
            "seed": self.seed,
            "passed": self.passed,
            "quiet_s": self.quiet_s,
            "happened": [asdict(one) for one in self.happened],
            "findings": self.findings,
            "audit": None if self.audit is None else self.audit.as_json(),
        }


class Chaos:
    """Disturbs one run."""

    def __init__(self, system: System, report: ChaosReport, say: Callable[[str], None]) -> None:
        """Write into `report`, and tell `say` what happens."""
        self.system = system
        self.report = report
        self.say = say
        self.began = 0.0

    async def one_after_another(self, faults: Sequence[Fault]) -> None:
        """Each fault once; the next one when the run has recovered and its books close."""
        await self._calm()
        for fault in faults:
            await self._happen(fault)
            self._look_at_books(fault)

    async def by_schedule(self, schedule: Sequence[Appointment], seconds: float) -> None:
        """Faults at their times, whether the run has recovered from the last one or not."""
        await self._calm()
        async with asyncio.TaskGroup() as group:
            for appointment in schedule:
                await asyncio.sleep(max(0.0, self.began + appointment.at_s - time.time()))
                group.create_task(self._happen(appointment.fault))
            await asyncio.sleep(max(0.0, self.began + seconds - time.time()))

    async def _calm(self) -> None:
        """Wait for training, and see how long two steps take."""
        await self.system.until_steps(1, 0.0)
        self.began = time.time()
        self.report.quiet_s = await recovery_s(self.system, self.began, STEPS_TO_RECOVER, RECOVERY_TIMEOUT_S)

    async def _happen(self, fault: Fault) -> None:
        began = time.time()
        self.say(f"chaos: {fault.name}")
        try:
            await self._bounded(fault.happen(self.system), fault)
            took = await recovery_s(self.system, began, STEPS_TO_RECOVER, RECOVERY_TIMEOUT_S)
        except UserError as error:
            self.report.findings.append(f"{fault.name}: {error}")
            self.say(f"chaos: {fault.name}: {error}")
            return
        self.report.happened.append(Happened(fault.name, began - self.began, took))
        self.say(f"chaos: {fault.name}: going on after {took:.1f} s")

    async def _bounded(self, happening: Awaitable[object], fault: Fault) -> None:
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT_S):
                await happening
        except TimeoutError:
            raise UserError(f"it could not happen within {RECOVERY_TIMEOUT_S:g} s") from None

    def _look_at_books(self, fault: Fault) -> None:
        audit = audit_run(self.system.folder)
        self.report.findings += [f"after {fault.name}: {finding}" for finding in audit.findings]
