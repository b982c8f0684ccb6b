"""The folder of results of `everything`: one place for each picture, whole or not there, and known again later."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.cli.everything_outputs import Segmented, write_json, write_parts
from mobile_sam.core.files import atomic_folder

if TYPE_CHECKING:
    from mobile_sam.data.records import Picture

TOOL = "mobile-sam everything"
SETTINGS_JSON = "settings.json"
OUR_FILES = re.compile(r"\d+\.png|metadata\.csv|(overlay|labels)\.png|(coco|settings)\.json|\.DS_Store|Thumbs\.db")
NO_DIFFERENCE = ("points_per_batch",)  # settings that change the time, not the masks
RLE_SETTINGS_FOLDER = ".mobile-sam"  # with --convert-to-rle, where STEM.json itself is a bare list


@dataclass(frozen=True)
class Place:
    """Where the results of one picture are.

    Attributes:
        target: DIR/STEM, or with --convert-to-rle DIR/STEM.json.
        settings: the file that says how they were made.
    """

    target: Path
    settings: Path

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files, not a file of run lengths."""
        return self.settings.parent == self.target

    def is_done(self, describe: Callable[[], Mapping[str, Any]], overwrites: bool) -> bool:
        """Tell whether the results that are wanted are there; False also means that they may be written.

        Args:
            describe: says how they are made.
            overwrites: whether others of ours may be replaced.

        Raises:
            ValueError: something else is there.
        """
        if not os.path.lexists(self.target):
            return False
        found = self._description_found()
        if found is None:
            raise ValueError(f"{self.target} is there and no {TOOL} wrote it (or not all of it); name another -o")
        changes = _differences(found, describe())
        if changes and not overwrites:
            raise ValueError(f"{self.target} is there, made otherwise: {'; '.join(changes)}; --overwrite replaces it")
        return not changes

    def write(self, segmented: Segmented, parts: Collection[str]) -> None:
        """Write the results, in place of earlier ones of ours if `is_done` allowed that.

        Raises:
            OSError: something appeared there meanwhile, or the disk is full, ...
        """
        if self.is_folder:
            with atomic_folder(self.target, replaces=self._description_found() is not None) as temporary:
                write_parts(temporary, segmented, parts)
                write_json(temporary / SETTINGS_JSON, segmented.description)
        else:
            self._write_run_lengths(segmented)

    def _write_run_lengths(self, segmented: Segmented) -> None:
        """Write STEM.json last, so that where there is one, its settings and its hash are there too."""
        from mobile_sam.core.files import atomic_path
        from mobile_sam.core.weights import sha256_of_file
        from mobile_sam.everything.coco import json_record

        self.settings.parent.mkdir(parents=True, exist_ok=True)
        is_ours = self._description_found() is not None
        with atomic_path(self.target) as temporary:
            temporary.write_text(
                json.dumps([json_record(record) for record in segmented.found.records]), encoding="utf-8"
            )
            if is_ours:
                self.target.unlink()
            elif os.path.lexists(self.target):
                raise FileExistsError(f"{self.target} appeared meanwhile; nothing was written")
            write_json(self.settings, {**segmented.description, "result_sha256": sha256_of_file(temporary)})

    def _description_found(self) -> dict[str, Any] | None:
        """How the results that are there were made; None where there are none, or not only ours."""
        from mobile_sam.core.weights import sha256_of_file

        if self.target.is_symlink() or self.target.is_dir() != self.is_folder:
            return None
        try:
            found = json.loads(self.settings.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found.get("tool") != TOOL:
                return None
            if self.is_folder:
                is_ours = all(OUR_FILES.fullmatch(entry.name) and entry.is_file() for entry in self.target.iterdir())
            else:
                is_ours = found.pop("result_sha256", None) == sha256_of_file(self.target)
        except (OSError, ValueError):
            return None
        return found if is_ours else None


def places_in(
    folder: Path, pictures: Sequence[Picture], inputs: Mapping[str, Path], *, as_run_lengths: bool
) -> dict[str, Place]:
    """Give each picture its place, named by the stem of its file.

    Args:
        folder: of all results.
        pictures: with ids of their own.
        inputs: the files that are read, by what the user calls them.
        as_run_lengths: whether the results of a picture are one file.

    Returns:
        Places by the picture's id.

    Raises:
        ValueError: two pictures of one stem, or a file that is read lies where results would replace it.
    """
    places: dict[str, Place] = {}
    named: dict[str, Path] = {}  # pictures by stem
    for picture in pictures:
        stem = picture.path.stem
        other = named.setdefault(os.path.normcase(stem), picture.path)
        if other != picture.path:
            raise ValueError(f"{other} and {picture.path} would both be written to {folder / stem}; use two folders")
        if as_run_lengths:
            places[picture.id] = Place(folder / f"{stem}.json", folder / RLE_SETTINGS_FOLDER / f"{stem}.json")
        else:
            places[picture.id] = Place(folder / stem, folder / stem / SETTINGS_JSON)
    targets = {os.path.realpath(place.target) for place in places.values() if os.path.lexists(place.target)}
    for what, source in inputs.items():
        real = Path(os.path.realpath(source))
        replaced = targets.intersection(map(str, (real, *real.parents)))
        if replaced:
            raise ValueError(f"writing {replaced.pop()} could replace {what} {source}; name another -o")
    return places


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name what differs between two descriptions: picture, model, settings."""
    changes = [
        f"the {what} has changed" for what in ("picture", "model") if _sha256(found.get(what)) != _sha256(wanted[what])
    ]
    before = found.get("settings")
    before = before if isinstance(before, dict) else {}
    for name, value in wanted["settings"].items():
        if name not in NO_DIFFERENCE and before.get(name) != value:
            is_file = name.endswith("_sha256")
            change = "has changed" if is_file else f"was {before.get(name)}, is {value} now"
            changes.append(f"{name.removesuffix('_sha256')} {change}")
    return changes


def _sha256(value: Any) -> Any:
    return value.get("sha256") if isinstance(value, dict) else None
