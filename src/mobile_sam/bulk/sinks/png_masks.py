"""PNG masks: a folder for each picture, as SAM's scripts/amg.py writes it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import PictureSink
from mobile_sam.bulk.sinks.picture_files import place_of, taken_error
from mobile_sam.everything.sam_files import METADATA_CSV, write_mask_files

_MASK_FILE = re.compile(r"(0|[1-9]\d*)\.png")


class PngMasksSink(PictureSink):
    """Writes masks/KEY/0.png, 1.png, ... (8 bits, 0 and 255, of the picture's size) and masks/KEY/metadata.csv.

    All files are written to a new folder beside, so that a full disk changes nothing, which takes the name KEY. Where
    there is such a folder already, of an earlier run or because it holds the folders of other pictures (that of "a/b"
    is in that of "a"), the files are moved into it one by one, metadata.csv last: where there is one, all masks are,
    and what else is in the folder stays.
    """

    def write(self, masks: PictureMasks) -> None:
        """Write one picture's folder, see `PictureSink`."""
        folder = place_of(self.settings.out / "masks", masks)
        with _new_folder(folder.parent) as new:
            write_mask_files(new, masks.records)
            try:
                os.rename(new, folder)
            except OSError:
                if not folder.is_dir():
                    if folder.exists():
                        raise taken_error(folder, masks) from None
                    raise
                _move_into(new, folder, len(masks.records), masks)


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards, unless it got another name."""
    new = parent / f".mobile-sam-{secrets.token_hex(8)}"
    try:
        new.mkdir()
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _move_into(new: Path, folder: Path, num_masks: int, masks: PictureMasks) -> None:
    """Put the files of a new folder in place of those of an earlier one, and leave what lies below."""
    names = [f"{index}.png" for index in range(num_masks)]
    try:
        (folder / METADATA_CSV).unlink(missing_ok=True)
        for name in names:
            os.replace(new / name, folder / name)
        for earlier in {entry.name for entry in os.scandir(folder) if entry.is_file()}.difference(names):
            if _MASK_FILE.fullmatch(earlier):
                (folder / earlier).unlink()
        os.replace(new / METADATA_CSV, folder / METADATA_CSV)
    except IsADirectoryError as error:
        raise taken_error(folder, masks) from error
