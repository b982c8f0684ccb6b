"""The `mobile-sam` command."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated

import typer

from mobile_sam._version import __version__
from mobile_sam.cli import data, distill_embed, distill_export, distill_finetune, distill_train, evaluate
from mobile_sam.cli.bulk import bulk
from mobile_sam.cli.demo import demo
from mobile_sam.cli.everything import everything
from mobile_sam.cli.export import export
from mobile_sam.cli.info import info
from mobile_sam.cli.segment import segment
from mobile_sam.cli.serve import serve

OUTPUT_CLOSED = 1  # exit code when nobody reads what is printed, as in `mobile-sam info | head -1`
USER_ERROR = 2  # exit code for a mistake in what the user gave
INTERRUPTED = 130  # exit code after Ctrl-C (128 + SIGINT), and after SIGTERM, which does the same

app = typer.Typer(
    name="mobile-sam",
    help="MobileSAM: cut any object out of any picture, offline, on a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take the brackets in the help of --prompts for markup
)
app.command()(segment)
app.command()(everything)
app.command()(bulk)
app.command()(demo)
app.command()(serve)
app.command()(export)
app.command()(info)

evaluate_app = typer.Typer(help="Validate by named protocols.", no_args_is_help=True, rich_markup_mode=None)
evaluate_app.command()(evaluate.prompts)
evaluate_app.command()(evaluate.agreement)
evaluate_app.command()(evaluate.boxes)
evaluate_app.command()(evaluate.everything)
evaluate_app.command()(evaluate.latency)
evaluate_app.command()(evaluate.protocols)
app.add_typer(evaluate_app, name="evaluate")

data_app = typer.Typer(help="Make pictures ready for training.", no_args_is_help=True, rich_markup_mode=None)
data_app.command()(data.pack)
app.add_typer(data_app, name="data")

distill_app = typer.Typer(
    help="Train a model of your own: teacher embeddings, then a student.", no_args_is_help=True, rich_markup_mode=None
)
distill_app.command()(distill_embed.embed)
distill_app.command()(distill_train.train)
distill_app.command()(distill_finetune.finetune)
distill_app.command()(distill_export.export)
app.add_typer(distill_app, name="distill")


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing half done is left behind
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal's encoding lacks
    try:
        try:
            app()
        finally:
            _flush_stdout()
    except BrokenPipeError:
        sys.exit(OUTPUT_CLOSED)
    except (ValueError, OSError, ImportError) as error:
        print(f"mobile-sam: error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except MemoryError:
        print("mobile-sam: error: not enough memory for this picture; shrink it first", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _flush_stdout() -> None:
    """Write out what is printed; where that fails, keep the interpreter from failing on it once more at its end."""
    if sys.stdout is None:  # closed from the start, as by the shell's >&-
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
