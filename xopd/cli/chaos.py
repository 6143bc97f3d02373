"""`xopd chaos`: a run on this machine whose parts are killed, frozen and cut off, and whose books must close."""

from __future__ import annotations

from typing import Annotated

import typer

from xopd.cli.show import PlainOption, SetOption, StartTimeoutOption

HELP = "Kill, freeze and cut off parts of a local run on a seeded schedule, then audit it."


def chaos(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="YAML configuration of the run.")] = (
        "examples/tiny/demo.yaml"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides what happens when.")] = 0,
    minutes: Annotated[float, typer.Option("--minutes", min=0.2, help="How long faults happen.")] = 10.0,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=1, help="Mean time between faults.")] = 12.0,
    each: Annotated[bool, typer.Option("--each", help="Every kind of fault once, one after another, instead.")] = False,
    json_: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write what happened to FILE.")] = None,
    set_: SetOption = None,
    plain: PlainOption = False,
    start_timeout: StartTimeoutOption = 600.0,
) -> None:
    """Exit status: 0 if the run went on after every fault and its books close, 1 if not."""
    import json
    from pathlib import Path

    from rich.console import Console

    from xopd.chaos.books import print_chaos
    from xopd.chaos.session import disturbed_run, load_presets

    settings = load_presets(config, set_ or ())
    console = Console(highlight=False)
    schedule = None if each else (seed, minutes * 60, every)
    folder, report = disturbed_run(console, settings, config, schedule, plain, start_timeout)
    print_chaos(console, str(folder), report)
    if json_ is not None:
        Path(json_).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(0 if report.passed else 1)
