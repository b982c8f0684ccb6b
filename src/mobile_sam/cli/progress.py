"""A progress bar with the time left, on stderr, so that what is printed can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, int, float], None]]:
    """Show a bar until the block ends; nothing where stderr is no terminal.

    Args:
        what: what is counted, such as "pictures".

    Yields:
        A function to be told how many are done (a part of one counts), how many of these failed, how many there are.
    """
    import sys

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[trouble]}", style="red"),
    )
    shares_terminal = sys.stdout is not None and sys.stdout.isatty()  # else what is printed is not the bar's affair
    with Progress(
        *columns, console=console, disable=not console.is_terminal, redirect_stdout=shares_terminal
    ) as progress:
        task = progress.add_task(what, total=None, pace="", trouble="")

        def tell(num_done: float, num_failed: int, num_all: float) -> None:
            if progress.tasks[0].total is None:  # those of an earlier run say nothing of this one's pace
                progress.reset(task, total=num_all, completed=int(num_done))
            trouble = f"{num_failed} failed" if num_failed else ""
            per_s = progress.tasks[0].finished_speed or progress.tasks[0].speed
            pace = "" if per_s is None else f"{per_s:.3g}/s" if per_s >= 1 else f"{1 / max(per_s, 1e-9):.3g} s each"
            progress.update(task, completed=num_done, total=num_all, pace=pace, trouble=trouble)

        yield tell
