"""A table as data, and its forms: Markdown, LaTeX, CSV, and the terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Literal

import rich.table
from rich.text import Text

from xopd.report.style import RETENTION, SPEECH, TEXT

STYLES = {"speech": SPEECH, "text": TEXT, "retention": RETENTION}
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "→": r"$\to$",
        "λ": r"$\lambda$",
        "π": r"$\pi$",
        "β": r"$\beta$",
        "’": "'",
        "\u00a0": "~",
    }
)
"""What LaTeX would read otherwise, or has no glyph for in its usual fonts."""


@dataclass(frozen=True)
class Number:
    """A figure, with its sample standard deviation over seeds or its 95 % interval over items where it has one."""

    mean: float
    sd: float | None = None
    digits: int = 1
    signed: bool = False
    ci95: tuple[float, float] | None = None
    n: int | None = None
    """Items."""

    def __str__(self) -> str:
        """The mean, and the deviation: `76.2 ± 1.3`."""
        # Rounding first, and adding zero, leaves no sign before a zero.
        mean = round(self.mean, self.digits) + 0.0
        text = f"{mean:{'+' if self.signed and mean else ''}.{self.digits}f}".replace("-", "−")
        return text if self.sd is None else f"{text} ± {self.sd:.{self.digits}f}"


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a difference."""

    low: float
    high: float

    def __str__(self) -> str:
        """Both ends with their signs: `[−1.0, +2.4]`."""
        return f"[{Number(self.low, signed=True)}, {Number(self.high, signed=True)}]"


Value = str | Number | Interval | None
Kind = Literal["text", "prose", "number", "spread", "interval"]
"""What a column holds: a word or sentences, one number, mean and standard deviation, or an interval."""


@dataclass(frozen=True)
class Column:
    """A column; `paper` marks the paper's own figures."""

    key: str
    heading: str
    kind: Kind
    paper: bool = False


@dataclass(frozen=True)
class Row:
    """A model's line; `reference` is the one that the text speaks about first."""

    name: str
    values: tuple[Value, ...]
    role: Literal["teacher", "base", "reference", "entry"] = "entry"


@dataclass(frozen=True)
class Table:
    """One table; the first column is the label."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    name: str = ""
    """`table1` and so on; empty for a table that stands alone."""
    title: str = ""
    caption: str = ""

    @property
    def number(self) -> str:
        """`Table 1`."""
        return self.name.replace("table", "Table ")


def shown(value: Value, digits: int = 1) -> str:
    """A value for people: `76.2 ± 1.3`, `76.2 [74.0, 78.1]` with so many `digits` in brackets; a dash for None."""
    if isinstance(value, Number) and value.ci95 is not None:
        low, high = value.ci95
        return f"{value} [{low:.{digits}f}, {high:.{digits}f}]"
    return "–" if value is None else str(value)


def markdown(table: Table) -> str:
    """The table in Markdown under its title, the caption and notes below it."""
    lines = [
        *([f"### {table.number}: {table.title}", ""] if table.title else []),
        _pipes([column.heading for column in table.columns]),
        _pipes(["---", *["---:"] * (len(table.columns) - 1)]),
        *(_pipes([shown(value) for value in row.values]) for row in table.rows),
        *(["", table.caption] if table.caption else []),
        *(f"\n{note}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float; it needs the package booktabs."""
    references = [row for row in table.rows if row.role in ("teacher", "base")]
    models = [row for row in table.rows if row not in references]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(' '.join([f'{table.title}.', table.caption, *table.notes]))}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        _ampersands([column.heading for column in table.columns]),
        *(part for rows in (references, models) if rows for part in (r"    \midrule", *map(_latex_row, rows))),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text with everything replaced that LaTeX would read as a command."""
    return text.translate(LATEX)


def csv_text(table: Table) -> str:
    """The table as CSV with full precision; a spread takes two columns, mean and sd, and an interval low and high."""
    suffixes = {"spread": ("_mean", "_sd"), "interval": ("_low", "_high")}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [column.key + suffix for column in table.columns for suffix in suffixes.get(column.kind, ("",))]
    writer.writerow(["name", *names])
    for row in table.rows:
        cells: list[str | float | None] = [row.name]
        for column, value in zip(table.columns, row.values, strict=True):
            width = len(suffixes.get(column.kind, ("",)))
            if isinstance(value, Interval):
                cells += [value.low, value.high]
            elif isinstance(value, Number):
                cells += [value.mean, value.sd][:width]
            else:
                cells += [value, None][:width]
        writer.writerow(cells)
    return buffer.getvalue()


def rich_table(table: Table) -> rich.table.Table:
    """The table for a terminal of 80 columns, without the paper's figures; intervals are rounded to whole numbers."""
    drawn = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    columns = [(i, column) for i, column in enumerate(table.columns) if not column.paper]
    for i, column in columns:
        heading = column.heading.replace("Drop ", "Drop\n").replace(" (", "\n(") if i else ""
        drawn.add_column(heading, style=STYLES.get(column.key, ""), justify="right" if i else "left", no_wrap=bool(i))
    for row in table.rows:
        style = "bold" if row.role == "reference" else ""
        drawn.add_row(*(Text(shown(row.values[i], digits=0), style=style) for i, _ in columns))
    return drawn


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _latex_row(row: Row) -> str:
    return _ampersands([shown(value) for value in row.values])


def _ampersands(cells: list[str]) -> str:
    row = " & ".join(escape_latex(cell) for cell in cells)
    # After the line break before it, a bracket would be read as that break's argument.
    return f"    {'{}' if row.startswith('[') else ''}{row} \\\\"
