"""The folder of a run: made, or recognised, or refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mobile_sam.bulk.manifest_lock import RunInUseError
from mobile_sam.bulk.settings import BulkSettings

MANIFEST, FAILURES, SUMMARY = "bulk", "failures", "summary"
"""Stems of what a run keeps in its folder, beside the formats."""
_MANIFESTS = re.compile(rf"{MANIFEST}(-\d+-of-(?P<count>\d+))?\.sqlite")


@dataclass
class RunFolder:
    """A folder for a run.

    Attributes:
        has_run: whether there is a run in it that can be gone on with; else what was made of it goes again.
    """

    has_run: bool


def manifest_path(settings: BulkSettings) -> Path:
    """Where the manifest of a run is."""
    return settings.named(MANIFEST, ".sqlite")


@contextmanager
def folder_of(settings: BulkSettings, sources: Sequence[str]) -> Iterator[RunFolder]:
    """Make the folder of a run, or find that it is one; what is new goes again if an error comes before a run is there.

    Args:
        settings: of the run.
        sources: of the run; of those that are folders, with all that is in them, it must be no part.

    Raises:
        OSError: it is a file, or cannot be made or written.
        ValueError: it holds other things, or lies in a source.
    """
    out = Path(settings.out)
    real = Path(os.path.realpath(out))
    for source in sources:
        if os.path.isdir(source) and Path(os.path.realpath(source)) in (real, *real.parents):
            raise ValueError(f"--out {out} lies in the source {source}, whose pictures it would join; name one outside")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; name a folder")
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write into --out {out}")
    _check_content(out, settings)
    manifest = manifest_path(settings)
    folder = RunFolder(manifest.exists())
    try:
        yield folder
    except RunInUseError:
        folder.has_run = True  # another's, which began at the same time
        raise
    finally:
        if not folder.has_run:
            for path in out.glob(f"{manifest.name}*"):
                path.unlink(missing_ok=True)
            if is_new and not any(out.iterdir()):
                out.rmdir()


def _check_content(out: Path, settings: BulkSettings) -> None:
    names = sorted(entry.name for entry in os.scandir(out))
    manifests = [found for name in names if (found := _MANIFESTS.match(name))]
    if names and not manifests:
        more = ", ..." if len(names) > 3 else ""
        raise ValueError(f"--out {out} holds other things ({', '.join(names[:3])}{more}) and no run; name a new folder")
    for found in manifests:
        count = int(found["count"] or 1)
        if count != settings.shard[1]:
            parts = f"one of {count} parts" if count > 1 else "all pictures"
            raise ValueError(
                f"--out {out} has a run over {parts} ({found.group()}), got --shard {settings.shard_name or '1/1'}; "
                "divide the pictures as there, or name a new folder"
            )
