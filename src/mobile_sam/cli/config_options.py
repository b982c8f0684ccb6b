"""The settings of "segment everything" as flags of a command, made from the fields of `EverythingConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from mobile_sam.everything.config import EverythingConfig

NO_FLAGS = ("output_mode",)  # the command's own affair


class SettingsCommand(TyperCommand):
    """A command with a flag for each setting besides its own; `context.obj` is the `EverythingConfig` they amount to.

    The flags are made when the command is asked for, not when it is announced: the settings' module imports numpy,
    which `mobile-sam --help` has no use for.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters, the settings, and --help."""
        own_and_help = super().get_params(ctx)
        num_own = len(self.params)
        return [*own_and_help[:num_own], *_flags(config_from_flags()), *own_and_help[num_own:]]

    def invoke(self, ctx: Any) -> Any:
        """Make the settings and run the command.

        Raises:
            ValueError: a setting out of its range.
        """
        make_config = config_from_flags()
        names = inspect.signature(make_config).parameters
        ctx.obj = make_config(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def config_from_flags() -> Callable[..., EverythingConfig]:
    """Make a function of all settings that have a help text, with a signature that Typer turns into flags."""
    from mobile_sam.everything.config import EverythingConfig

    def make_config(**settings: Any) -> EverythingConfig:
        return EverythingConfig(**settings, output_mode="coco_rle")

    types = get_type_hints(EverythingConfig)
    parameters = [
        inspect.Parameter(
            known.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=known.default,
            annotation=Annotated[types[known.name], typer.Option(help=known.metadata["help"])],
        )
        for known in fields(EverythingConfig)
        if "help" in known.metadata and known.name not in NO_FLAGS
    ]
    make_config.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    make_config.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return make_config


def _flags(function: Callable[..., Any]) -> list[Any]:
    """Have Typer make the options of a function with this signature."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return list(typer.main.get_command(app).params)
