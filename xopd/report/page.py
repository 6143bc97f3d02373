"""Turn what a page shows into one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from xopd.report import style
from xopd.report.charts import own_ids
from xopd.report.style import count, duration, percent
from xopd.report.tables import Number


def render(template: str, **context: Any) -> str:
    """The page that a file of templates/ makes of `context`; text is escaped, save where the template says `safe`.

    Raises:
        jinja2.UndefinedError: for a name that the template uses and `context` lacks.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("xopd.report"), autoescape=True, undefined=StrictUndefined)
    pages.globals.update(colours=vars(style), PARTS=tuple(style.PAGE_OF))
    pages.filters.update(count=count, duration=duration, percent=percent, points=points, date=_date, own_ids=own_ids)
    return pages.get_template(template).render(context)


def points(share: float) -> str:
    """A difference of shares in signed points, as `+18.7`."""
    return str(Number(100 * share, signed=True))


def machine_line(machine: Mapping[str, Any]) -> str:
    """A machine in one line: its CPUs, memory and system, then whatever else is known of it."""
    known = {"cpus": "{} CPUs", "memory_gb": "{} GB", "platform": "{}"}
    parts = [form.format(machine[name]) for name, form in known.items() if machine.get(name)]
    return ", ".join([*parts, *(f"{name}: {value}" for name, value in machine.items() if name not in known)])


def _date(value: float | str) -> str:
    return value if isinstance(value, str) else f"{datetime.fromtimestamp(value, UTC):%d %B %Y, %H:%M} UTC"
