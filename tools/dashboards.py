"""Write deploy/grafana/dashboards/*.json from `panels.py` (`make docs`), or say which is not current (`--check`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, Panel

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "xopd-prometheus"}
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4
"""Grafana's grid has 24 columns; heights are in its own units."""
MOST_IN_A_LINE = 3
SCHEMA = 39
"""Dashboard schema of Grafana 11."""


def dashboard(name: str) -> dict[str, Any]:
    """The whole dashboard of that name."""
    return {
        "uid": f"xopd-{name}",
        "title": f"X-OPD {name.capitalize()}",
        "description": "Made by `make docs` from tools/panels.py: change it there.",
        "tags": ["xopd"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["xopd"], "title": "X-OPD", "keepTime": True, "asDropdown": False}],
        "panels": list(_placed(name)),
    }


def rendered(name: str) -> str:
    """The JSON file's text."""
    return json.dumps(dashboard(name), indent=2, ensure_ascii=False) + "\n"


def _placed(name: str) -> Iterator[dict[str, Any]]:
    """Rows and panels with ids and places, from left to right and from top to bottom."""
    number = y = 0
    for title, panels in DASHBOARDS[name].items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }
        y += 1
        for line in _lines(panels):
            width = WIDTH // len(line)
            height = STAT_HEIGHT if all(each.kind == "stat" for each in line) else HEIGHT
            for column, each in enumerate(line):
                number += 1
                place = {"x": column * width, "y": y, "w": width, "h": height}
                yield _panel(each, number, place)
            y += height


def _lines(panels: list[Panel]) -> Iterator[list[Panel]]:
    """Panels side by side: a row of small figures in one line, others at most three."""
    size = len(panels) if all(each.kind == "stat" for each in panels) else MOST_IN_A_LINE
    for start in range(0, len(panels), size):
        yield panels[start : start + size]


def _panel(each: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    table = each.kind == "table"
    return {
        "id": number,
        "type": each.kind,
        "title": each.title,
        "description": each.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(each), "overrides": []},
        "options": _options(each.kind),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": promql,
                "legendFormat": legend,
                "range": not table,
                "instant": table,
                "format": "table" if table else "time_series",
            }
            for index, (promql, legend) in enumerate(each.targets)
        ],
    }


def _defaults(each: Panel) -> dict[str, Any]:
    if each.kind != "timeseries":
        return {"unit": each.unit}
    return {"unit": each.unit, "custom": {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto", "spanNulls": False}}


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "none"}
    if kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}


def main() -> int:
    """Exit status 1 when `--check` found a stale file."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards, or check them.")
    parser.add_argument("--check", action="store_true", help="change nothing; name the files that are not current")
    check = parser.parse_args().check
    stale = []
    for name in DASHBOARDS:
        path = FOLDER / f"{name}.json"
        if check and not (path.exists() and path.read_text(encoding="utf-8") == rendered(name)):
            stale.append(path)
        elif not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(rendered(name), encoding="utf-8")
    sys.stderr.writelines(f"{path.relative_to(ROOT)} is not current: run make docs\n" for path in stale)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
