"""Entry of the `xopd` command: gathers the commands, and turns a user's mistake into one sentence.

Nothing heavy is imported before a command needs it, so `xopd --help` is instant.
"""

from __future__ import annotations

import platform
import sys
from typing import Annotated

import typer

from xopd import __version__
from xopd.cli import audit, chaos, check, compare, config, data, report, scale, status, up
from xopd.cli.show import print_failure
from xopd.errors import UserError
from xopd.readable import use_readable_output

app = typer.Typer(
    name="xopd",
    help="X-OPD: teach a speech LLM to answer by voice as well as its text backbone does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"xopd {__version__}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("up", help=up.HELP)(up.up)
app.command("compare", help=compare.HELP)(compare.compare)
app.command("check", help=check.HELP)(check.check)
app.command("report", help=report.HELP)(report.report)
app.command("audit", help=audit.HELP)(audit.audit)
app.command("chaos", help=chaos.HELP)(chaos.chaos)
app.command("status", help=status.HELP)(status.status)
app.command("scale", help=scale.HELP)(scale.scale)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")


def main() -> None:
    """Run the command line; a UserError is one sentence and exit status 2 (1 where a service crashed)."""
    use_readable_output()
    try:
        app()
    except UserError as error:
        print_failure(error)
        sys.exit(getattr(error, "exit_status", 2))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
