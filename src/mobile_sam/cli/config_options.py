"""The settings of "segment everything" as flags of a command, made from the fields of `EverythingConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any

import typer

from mobile_sam.everything.config import EverythingConfig

NO_FLAGS = ("output_mode",)  # the command's own affair


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each setting that has a help text, which its `**settings` will hold.

    The first one, the mode, comes before the keyword-only parameters of the command, the others come last.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    positional = [parameter for parameter in own if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    keyword_only = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]
    mode, *others = [
        _flag(known) for known in fields(EverythingConfig) if "help" in known.metadata and known.name not in NO_FLAGS
    ]
    parameters = [*positional, mode, *keyword_only, *others]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flag(known: Field[Any]) -> inspect.Parameter:
    """Make a parameter that Typer makes a flag of; no default is None, so that its type is the flag's."""
    return inspect.Parameter(
        known.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=known.default,
        annotation=Annotated[type(known.default), typer.Option(help=known.metadata["help"])],
    )
