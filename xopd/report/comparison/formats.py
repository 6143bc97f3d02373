"""A table of a comparison in Markdown, LaTeX, CSV and for the terminal."""

from __future__ import annotations

import csv
import io
import re

import rich.table
from rich.text import Text

from xopd.report.comparison.structure import Column, Interval, Number, Table, Value
from xopd.report.palette import QUIET, RETENTION, SPEECH, TEXT

LATEX = {
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
"""What LaTeX would read otherwise, or has no glyph for in its usual fonts."""
STYLES = {"speech": SPEECH, "text": TEXT, "retention": RETENTION}


def shown(value: Value) -> str:
    """A value for people: `76.2 ± 1.3`, `[−1.0, +2.4]`; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return f"[{_signed(value.low)}, {_signed(value.high)}]"
    if isinstance(value, Number):
        text = f"{value.mean:{'+' if value.signed else ''}.{value.digits}f}"
        if re.fullmatch(r"[+-]0\.?0*", text):
            text = text[1:]
        text = text.replace("-", "−")
        return text if value.sd is None else f"{text} ± {value.sd:.{value.digits}f}"
    return value


def markdown(table: Table) -> str:
    """The table in Markdown under its title, the caption and notes below it."""
    lines = [
        f"### {_number(table)}: {table.title}",
        "",
        _pipes([column.heading for column in table.columns]),
        _pipes(["---" if column is table.columns[0] else "---:" for column in table.columns]),
        *(_pipes([shown(value) for value in row.values]) for row in table.rows),
        "",
        table.caption,
        *(f"\n{note}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float; it needs the package booktabs."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(' '.join([f'{table.title}.', table.caption, *table.notes]))}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        _ampersands([column.heading for column in table.columns]),
        r"    \midrule",
    ]
    heading = True
    for row in table.rows:
        if heading and row.role not in ("teacher", "base"):
            lines += [r"    \midrule"] if row is not table.rows[0] else []
            heading = False
        lines.append(_ampersands([shown(value) for value in row.values]))
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text with everything replaced that LaTeX would read as a command."""
    return "".join(LATEX.get(character, character) for character in text)


def csv_text(table: Table) -> str:
    """The table as CSV with full precision; a spread takes two columns, mean and sd, and an interval low and high."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", *(name for column in table.columns for name in _csv_names(column))])
    for row in table.rows:
        cells = [
            cell for column, value in zip(table.columns, row.values, strict=True) for cell in _csv_cells(column, value)
        ]
        writer.writerow([row.name, *cells])
    return buffer.getvalue()


def rich_table(table: Table) -> rich.table.Table:
    """The table for a terminal of 80 columns, without the paper's figures."""
    drawn = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    columns = [(i, column) for i, column in enumerate(table.columns) if not column.paper]
    for i, column in columns:
        heading = column.heading.replace(" (", "\n(") if i else ""
        drawn.add_column(heading, style=STYLES.get(column.key, ""), justify="right" if i else "left", no_wrap=bool(i))
    for row in table.rows:
        style = "bold" if row.role == "reference" else QUIET if row.role in ("teacher", "base") else ""
        drawn.add_row(*(Text(shown(row.values[i]), style=style) for i, _ in columns))
    return drawn


def _number(table: Table) -> str:
    return table.name.replace("table", "Table ")


def _signed(value: float) -> str:
    return shown(Number(value, signed=True))


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ampersands(cells: list[str]) -> str:
    row = " & ".join(escape_latex(cell) for cell in cells)
    # After the line break before it, a bracket would be read as that break's argument.
    return f"    {'{}' if row.startswith('[') else ''}{row} \\\\"


def _csv_names(column: Column) -> list[str]:
    suffixes = {"spread": ("_mean", "_sd"), "interval": ("_low", "_high")}.get(column.kind, ("",))
    return [column.key + suffix for suffix in suffixes]


def _csv_cells(column: Column, value: Value) -> list[str]:
    width = len(_csv_names(column))
    if value is None:
        return [""] * width
    if isinstance(value, Interval):
        return [repr(value.low), repr(value.high)]
    if isinstance(value, Number):
        sd = "" if value.sd is None else repr(value.sd)
        return [repr(value.mean), sd][:width]
    return [value]
