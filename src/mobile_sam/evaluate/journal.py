"""The journal of a run: one line for each finished picture, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mobile_sam.core.files import atomic_path

FORMAT = "mobile-sam evaluation journal 1"

_DIFFERENCES_TOLD = 5
"""Of two runs, in the message that refuses to go on."""


class Journal:
    """Finished pictures of one run, in a file of JSON lines.

    The first line describes the run. A run is only continued with the same description: same protocols, models,
    weights and pictures. What a kill left of a last line is dropped.

    Args:
        path: the file; it is made, with its folder, if it does not exist.
        run: describes the run, JSON-able.
        restarts: begin anew even if there is a journal.

    Raises:
        ValueError: the file is the journal of another run, or no journal.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, restarts: bool = False) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        described = json.loads(json.dumps(run))  # as it will come back: tuples are lists
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with open(path, "ab") as earlier:
                _lock(earlier, path)  # before it is replaced or read
        if restarts or not path.exists():
            with atomic_path(path) as partial:  # so that there is no journal without a whole first line
                partial.write_bytes(_line({"format": FORMAT, "run": described}))
        whole_bytes = self._read(described)
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        _lock(self._file, path)
        self._file.truncate(whole_bytes)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, picture_id: str, entry: Mapping[str, Any]) -> None:
        """Keep what came of a picture; an earlier entry of the same picture is replaced."""
        self.entries[picture_id] = dict(entry)
        self._file.write(_line({"picture": picture_id, **entry}))
        self._file.flush()

    def is_done(self, picture_id: str) -> bool:
        """Tell whether a picture was finished; one that failed is tried again."""
        return "failed" not in self.entries.get(picture_id, {"failed": ""})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, run: Mapping[str, Any]) -> int:
        """Read the entries and return the number of bytes up to the end of the last whole line."""
        with open(self.path, "rb") as file:
            first_line = file.readline()
            self._check_header(_parsed(first_line), run)
            whole_bytes = len(first_line)
            for line in file:
                content = _parsed(line)
                if content is None or "picture" not in content:
                    break  # what follows a damaged line is measured again
                self.entries[str(content.pop("picture"))] = content
                whole_bytes += len(line)
        return whole_bytes

    def _check_header(self, header: dict[str, Any] | None, run: Mapping[str, Any]) -> None:
        if header is None or header.get("format") != FORMAT or not isinstance(header.get("run"), dict):
            raise ValueError(f"{self.path} is not a journal of an evaluation; name another folder for this run")
        differences = list(_differences(header["run"], dict(run)))
        if differences:
            told = "; ".join(differences[:_DIFFERENCES_TOLD])
            if len(differences) > _DIFFERENCES_TOLD:
                told += f"; and {len(differences) - _DIFFERENCES_TOLD} more differences"
            raise ValueError(
                f"{os.fspath(self.path.parent)} holds another run: {told}; name another folder, "
                "or begin anew (--restart)"
            )


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes from writing the journal at `path` until the file is closed. Not on Windows.

    Raises:
        ValueError: another process has locked it; the file is closed.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(f"another process is running in {path.parent}; name another folder") from error


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _differences(was: Any, now: Any, where: str = "") -> Iterator[str]:
    """Say what differs between two JSON values, down to the single field."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*was, *now)):
            yield from _differences(was.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (before, after) in enumerate(zip(was, now, strict=True)):
            yield from _differences(before, after, f"{where}[{index}]")
    elif was != now:
        yield f"{where} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    if isinstance(value, list):  # of models, protocols
        names = [entry.get("name") if isinstance(entry, dict) else entry for entry in value]
        return f"{len(value)} {_short(json.dumps(names))}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
