"""The `mobile-sam` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mobile_sam._version import __version__
from mobile_sam.cli.info import info
from mobile_sam.cli.segment import segment

USER_ERROR = 2  # exit code for a mistake in what the user gave

app = typer.Typer(
    name="mobile-sam",
    help="MobileSAM: cut any object out of any picture, offline, on a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(segment)
app.command()(info)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"mobile-sam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line; a mistake of the user ends in one clear line and exit code 2, never in a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        print(f"mobile-sam: error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except MemoryError:
        print("mobile-sam: error: not enough memory for this picture; shrink it first", file=sys.stderr)
        sys.exit(USER_ERROR)
