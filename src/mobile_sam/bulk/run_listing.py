"""What a run begins with: its pictures and their prompts, entered in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mobile_sam.bulk.manifest import Manifest
from mobile_sam.bulk.prompts import PromptFile, match_prompts
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.sources import list_sources
from mobile_sam.data.records import Problem

MAX_TOLD = 10  # problems of a source, renamed pictures

Tell = Callable[[str], None]


def list_pictures(sources: Sequence[str], settings: BulkSettings, manifest: Manifest, tell: Tell) -> None:
    """Enter the pictures of the sources, or those of them that are new.

    Raises:
        ValueError: there are none; of a part of the pictures that is no error.
        OSError, ValueError, MissingDependencyError: as `list_sources`.
    """
    problems: list[Problem] = []
    num_problems = 0

    def note(problem: Problem) -> None:
        nonlocal num_problems
        num_problems += 1
        if len(problems) < MAX_TOLD:
            problems.append(problem)

    num_before = manifest.counts().num_items
    summary = manifest.list_items(list_sources(sources, shard=settings.shard, on_problem=note))
    for problem in problems:
        tell(printable(f"{problem.where}: {problem.message}"))
    if num_problems > len(problems):
        tell(f"... and {num_problems - len(problems)} more problems of the sources")
    num_items = manifest.counts().num_items
    if not num_items and settings.shard[1] == 1:
        named = ", ".join(sources[:3])
        raise ValueError(
            printable(f"no pictures found in {named}; name folders, patterns, lists, COCO files or tars of pictures")
        )
    if summary.num_repeated and not num_before:
        tell(f"{summary.num_repeated} pictures are named more than once, and done once")
    for file_name, key in summary.renamed:
        tell(printable(f"{file_name}: another picture has its name; the results of this one are called {key}"))
    if summary.num_renamed > len(summary.renamed):
        tell(f"... and {summary.num_renamed - len(summary.renamed)} more with the name of another picture")
    tell(f"{num_items - num_before} {'new ' if num_before else ''}pictures listed")


def add_prompts(prompts: PromptFile, settings: BulkSettings, manifest: Manifest, tell: Tell) -> None:
    """Enter the prompts of the pictures; what of them cannot be used is told.

    Raises:
        ValueError: prompts of other pictures only, or that two pictures might be meant by.
    """

    def note(problem: Problem) -> None:
        tell(printable(f"{problem.where}: {problem.message}"))

    manifest.add_prompts(match_prompts(prompts, manifest.items(), note, is_part=settings.shard[1] > 1))


def printable(text: str) -> str:
    """Write bytes that are not UTF-8, as paths may hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
