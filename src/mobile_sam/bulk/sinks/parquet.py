"""Parquet: a row for each mask, for those who ask questions of many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.settings import require_bulk
from mobile_sam.bulk.sinks.base import CollectedSink, SinkSettings
from mobile_sam.core.files import atomic_folder

METADATA_KEY = "mobile_sam"
MAX_GROUP_ROWS = 8_192
MAX_GROUP_BYTES = 8 << 20  # of run lengths; row groups are what is held in memory, and what readers skip by
MAX_FILE_ROWS = 4 << 20
MAX_FILE_BYTES = 512 << 20  # of run lengths
REPEATED = ["item_id", "key", "file_name", "width", "height", "num_masks", "source_id", "category_id", "category"]

Row = dict[str, Any]


class ParquetSink(CollectedSink):
    """Writes parquet/part-00000.parquet and so on, to be read as one table.

    Columns of the picture: item_id, key, file_name, width, height, num_masks, source_id (its number in the annotation
    file that listed it). Columns of the mask: mask_index (from 0), area, bbox and crop_box (XYWH) as in the records of
    `SamAutomaticMaskGenerator`, predicted_iou, stability_score, point_x and point_y (of a mask of one point), box
    (XYXY, of a mask of a box), category_id and category (1 and "object" where no detector gave one), score (the
    detector's), rle_size ([height, width]) and rle_counts (text), which together are COCO's run lengths.

    A picture without masks has one row, in which all columns of the mask are null: `mask_index IS NOT NULL` leaves the
    masks. The schema's metadata have, as JSON under "mobile_sam", how the masks were made. The folder is replaced as a
    whole; a run on a part of the pictures has a folder of its own, such as parquet-2-of-8.
    """

    def __init__(self, settings: SinkSettings) -> None:
        """Check that pyarrow is there.

        Raises:
            MissingDependencyError: it is not.
        """
        super().__init__(settings)
        require_bulk("pyarrow", "the format parquet")

    def write(self, pictures: Iterable[PictureMasks]) -> list[Path]:
        """Write the files, holding one row group in memory.

        Raises:
            OSError: as the disk does.
        """
        folder = self.settings.out / self.settings.name("parquet", "")
        with atomic_folder(folder, replaces=folder.is_dir()) as temporary:
            writer = _FolderWriter(temporary, self.settings.info)
            try:
                for picture in pictures:
                    for row in self._rows(picture):
                        writer.add(row)
                writer.write_group()
            finally:
                writer.close()
            names = sorted(path.name for path in temporary.iterdir())
        return [folder / name for name in names]

    def _rows(self, picture: PictureMasks) -> Iterator[Row]:
        height, width = picture.size_hw
        of_picture = {
            "item_id": picture.item_id,
            "key": picture.key,
            "file_name": picture.file_name,
            "width": width,
            "height": height,
            "source_id": picture.source_id,
            "num_masks": len(picture.records),
        }
        for index, record in enumerate(picture.records):
            yield {**of_picture, "mask_index": index, **self._columns(record)}
        if not picture.records:
            yield of_picture

    def _columns(self, record: Mapping[str, Any]) -> Row:
        points_xy = record["point_coords"]
        x, y = points_xy[0] if len(points_xy) == 1 else (None, None)
        category_id, category = self.settings.category_of(record)
        return {
            "area": record["area"],
            "bbox": record["bbox"],
            "crop_box": record["crop_box"],
            "predicted_iou": record["predicted_iou"],
            "stability_score": record["stability_score"],
            "point_x": x,
            "point_y": y,
            "box": record.get("box"),
            "category_id": category_id,
            "category": category,
            "score": record.get("score"),
            "rle_size": record["segmentation"]["size"],
            "rle_counts": record["segmentation"]["counts"],
        }


class _FolderWriter:
    """Collects rows to row groups, and row groups to files; there is always a first file, that the schema is known."""

    def __init__(self, folder: Path, info: Mapping[str, Any]) -> None:
        self._folder = folder
        self._schema = _schema(info)
        self._rows: list[Row] = []
        self._group_bytes = self._num_files = 0
        self._open_file()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._group_bytes += len(row.get("rle_counts", ""))
        if len(self._rows) >= MAX_GROUP_ROWS or self._group_bytes >= MAX_GROUP_BYTES:
            self.write_group()

    def write_group(self) -> None:
        import pyarrow

        if not self._rows:
            return
        if self._file_rows >= MAX_FILE_ROWS or self._file_bytes >= MAX_FILE_BYTES:
            self._file.close()
            self._open_file()
        columns = {name: [row.get(name) for row in self._rows] for name in self._schema.names}
        self._file.write_table(pyarrow.table(columns, schema=self._schema))
        self._file_rows += len(self._rows)
        self._file_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0

    def close(self) -> None:
        self._file.close()

    def _open_file(self) -> None:
        from pyarrow import parquet

        path = self._folder / f"part-{self._num_files:05d}.parquet"
        self._file = parquet.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=REPEATED)
        self._num_files += 1
        self._file_rows = self._file_bytes = 0


def _schema(info: Mapping[str, Any]) -> Any:
    """Make the schema: the same for each file, also where a column is null throughout."""
    import pyarrow as pa

    required = {
        "item_id": pa.int64(),
        "key": pa.string(),
        "file_name": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "num_masks": pa.int32(),
    }
    nullable = {
        "source_id": pa.int64(),
        "mask_index": pa.int32(),
        "area": pa.int64(),
        "bbox": pa.list_(pa.float64()),
        "crop_box": pa.list_(pa.float64()),
        "predicted_iou": pa.float32(),
        "stability_score": pa.float32(),
        "point_x": pa.float64(),
        "point_y": pa.float64(),
        "box": pa.list_(pa.float64()),
        "category_id": pa.int64(),
        "category": pa.string(),
        "score": pa.float64(),
        "rle_size": pa.list_(pa.int32()),
        "rle_counts": pa.string(),
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    fields += [pa.field(name, kind) for name, kind in nullable.items()]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(info, allow_nan=False)})
