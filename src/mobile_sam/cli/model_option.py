"""The option --model, the same in each command that runs one model."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[
    str | None,
    typer.Option(help="A checkpoint, or a folder of `distill export`. [default: the bundled weights]"),
]
