"""A progress bar with the time left, on stderr, so that what is printed can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show a bar until the block ends; nothing where stderr is no terminal.

    Args:
        what: what is counted, such as "pictures".

    Yields:
        A function to be told how many are done, how many of these failed, and how many there are.
    """
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
        TextColumn("{task.fields[trouble]}", style="red"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None, trouble="")

        def tell(num_done: int, num_failed: int, num_all: int) -> None:
            if progress.tasks[0].total is None:  # those of an earlier run say nothing of this one's pace
                progress.reset(task, total=num_all, completed=num_done)
            trouble = f"{num_failed} failed" if num_failed else ""
            progress.update(task, completed=num_done, total=num_all, trouble=trouble)

        yield tell
