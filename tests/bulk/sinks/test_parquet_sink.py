"""parquet/ as pyarrow's datasets, pandas and pycocotools read it."""

import errno
import json
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks import parquet
from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.parquet import ParquetSink
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.masks import encode_rle

pytest.importorskip("pyarrow")

MASK_COLUMNS = {
    "mask_index", "area", "bbox", "crop_box", "predicted_iou", "stability_score", "point_x", "point_y", "box",
    "category_id", "category", "score", "rle_size", "rle_counts",
}  # fmt: skip


def record(mask, **more):
    return {
        "segmentation": dict(encode_rle(mask)), "area": int(mask.sum()), "bbox": [3, 2, 16, 6], "predicted_iou": 0.75,
        "point_coords": [[1.5, 2.25]], "stability_score": 0.875, "crop_box": [0, 0, 30, 20], **more,
    }  # fmt: skip


def picture(item_id, *records, source_id=None, size_hw=(20, 30)):
    return PictureMasks(item_id, f"k/{item_id}", f"k/{item_id}.jpg", size_hw, records, source_id)


def write(tmp_path, pictures, **settings):
    return ParquetSink(SinkSettings(tmp_path, **settings)).write(pictures)


def table(tmp_path, pictures, **settings):
    from pyarrow import dataset

    paths = write(tmp_path, pictures, **settings)
    read = dataset.dataset(paths[0].parent, format="parquet").to_table()
    read.validate(full=True)
    return read


@pytest.fixture
def masks():
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:9, 3:20], masks[1, 10:15, 5:6], masks[2, :, 29:] = True, True, True
    return masks


def test_pycocotools_unfolds_the_masks_that_pandas_reads(masks, tmp_path):
    pandas = pytest.importorskip("pandas")
    write(tmp_path, [picture(1, record(masks[0]), record(masks[1])), picture(2), picture(3, record(masks[2]))])
    frame = pandas.read_parquet(tmp_path / "parquet")
    found = frame[frame["mask_index"].notna()]
    rles = [
        {"size": [int(side) for side in row.rle_size], "counts": row.rle_counts.encode()} for row in found.itertuples()
    ]
    assert_array_equal(coco_mask.decode(rles).transpose(2, 0, 1).astype(bool), masks)
    assert found["area"].tolist() == [7 * 17, 5, 20]
    assert found["item_id"].tolist() == [1, 1, 3]
    assert found["mask_index"].tolist() == [0, 1, 0]


def test_a_row_says_all_that_is_known_of_a_mask(masks, tmp_path):
    of_a_box = record(masks[1], point_coords=[], box=[4.5, 9.0, 6.0, 15.25], score=0.1, category_id=7)
    pictures = [picture(5, record(masks[0]), of_a_box, source_id=397133)]
    first, second = table(tmp_path, pictures, categories={7: "cat"}).to_pylist()
    assert first == {
        "item_id": 5, "key": "k/5", "file_name": "k/5.jpg", "width": 30, "height": 20, "num_masks": 2,
        "source_id": 397133, "mask_index": 0, "area": 119, "bbox": [3, 2, 16, 6], "crop_box": [0, 0, 30, 20],
        "predicted_iou": 0.75, "stability_score": 0.875, "point_x": 1.5, "point_y": 2.25, "box": None,
        "category_id": 1, "category": "object", "score": None, "rle_size": [20, 30],
        "rle_counts": encode_rle(masks[0])["counts"],
    }  # fmt: skip
    assert (second["point_x"], second["point_y"], second["box"]) == (None, None, [4.5, 9.0, 6.0, 15.25])
    assert (second["category_id"], second["category"], second["score"], second["mask_index"]) == (7, "cat", 0.1, 1)


def test_a_mask_of_several_points_has_no_point_of_its_own(masks, tmp_path):
    (row,) = table(tmp_path, [picture(1, record(masks[0], point_coords=[[1, 2], [3, 4]]))]).to_pylist()
    assert (row["point_x"], row["point_y"]) == (None, None)


def test_a_picture_without_masks_has_one_row_of_nulls(masks, tmp_path):
    rows = table(tmp_path, [picture(1), picture(2, record(masks[0])), picture(3)]).to_pylist()
    assert [(row["item_id"], row["num_masks"], row["mask_index"]) for row in rows] == [
        (1, 0, None),
        (2, 1, 0),
        (3, 0, None),
    ]
    assert {name for name, value in rows[0].items() if value is None} == MASK_COLUMNS | {"source_id"}
    assert (rows[2]["file_name"], rows[2]["width"], rows[2]["height"]) == ("k/3.jpg", 30, 20)


def test_a_run_without_pictures_has_a_file_without_rows_and_the_schema(masks, tmp_path):
    empty = table(tmp_path / "a", [])
    full = table(tmp_path / "b", [picture(1, record(masks[0], score=0.5, box=[0, 0, 1, 1]), source_id=1)])
    assert len(empty) == 0
    assert empty.schema.equals(full.schema)


def test_the_schema_is_the_same_whatever_is_null_and_says_how_masks_were_made(masks, tmp_path):
    info = {"tool": "mobile-sam bulk", "model": {"sha256": "ab"}}
    bare = table(tmp_path, [picture(1)], info=info).schema
    full = table(tmp_path, [picture(1, record(masks[0], score=0.5), source_id=1)], info=info).schema
    assert bare.equals(full, check_metadata=True)
    assert json.loads(bare.metadata[b"mobile_sam"]) == info
    assert {str(field.type) for field in bare if field.name in ("item_id", "area", "source_id")} == {"int64"}


def test_many_rows_go_to_groups_and_files_of_bounded_size(masks, tmp_path, monkeypatch):
    from pyarrow.parquet import ParquetFile

    monkeypatch.setattr(parquet, "MAX_GROUP_ROWS", 10)
    monkeypatch.setattr(parquet, "MAX_FILE_ROWS", 30)
    paths = write(tmp_path, [picture(number, record(masks[0]), record(masks[1])) for number in range(1, 41)])
    assert [path.name for path in paths] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    files = [ParquetFile(path) for path in paths]
    groups = [[file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] for file in files]
    assert groups == [[10, 10, 10], [10, 10, 10], [10, 10]]
    ids = [number for file in files for number in file.read(["item_id"])["item_id"].to_pylist()]
    assert ids == [number for number in range(1, 41) for _ in range(2)]


def test_long_run_lengths_end_groups_and_files_too(masks, tmp_path, monkeypatch):
    from pyarrow.parquet import ParquetFile

    num_bytes = len(encode_rle(masks[0])["counts"])
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 3 * num_bytes)
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 6 * num_bytes)
    paths = write(tmp_path, [picture(number, record(masks[0])) for number in range(1, 14)])
    assert [ParquetFile(path).metadata.num_rows for path in paths] == [6, 6, 1]


def test_columns_are_packed_with_zstd(masks, tmp_path):
    from pyarrow.parquet import ParquetFile

    (path,) = write(tmp_path, [picture(1, record(masks[0]))])
    group = ParquetFile(path).metadata.row_group(0)
    assert {group.column(number).compression for number in range(group.num_columns)} == {"ZSTD"}


def test_the_folder_is_replaced_as_a_whole(masks, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_GROUP_ROWS", 1)
    monkeypatch.setattr(parquet, "MAX_FILE_ROWS", 1)
    assert len(write(tmp_path, [picture(1), picture(2), picture(3)])) == 3
    paths = write(tmp_path, [picture(1)])
    assert list((tmp_path / "parquet").iterdir()) == paths
    assert [path.name for path in tmp_path.iterdir()] == ["parquet"]


def test_a_part_of_the_pictures_has_a_folder_of_its_own(tmp_path):
    write(tmp_path, [picture(1)], shard=(0, 2))
    assert write(tmp_path, [picture(2)], shard=(1, 2)) == [tmp_path / "parquet-2-of-2" / "part-00000.parquet"]
    assert (tmp_path / "parquet-1-of-2" / "part-00000.parquet").exists()


def test_same_masks_give_the_same_bytes(masks, tmp_path):
    found = [picture(1, record(masks[0])), picture(2)]
    (first,) = write(tmp_path / "a", found, info={"x": 1})
    (second,) = write(tmp_path / "b", found, info={"x": 1})
    assert first.read_bytes() == second.read_bytes()


def test_an_error_leaves_the_earlier_folder_and_no_other(masks, tmp_path):
    (before,) = write(tmp_path, [picture(1)])
    content = before.read_bytes()

    def failing():
        yield picture(1, record(masks[0]))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, failing())
    assert [path.name for path in tmp_path.iterdir()] == ["parquet"]
    assert before.read_bytes() == content


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(parquet, "MAX_GROUP_ROWS", 100)
    noise = np.random.default_rng(0).random((300, 64, 64)) < 0.5
    pictures = [picture(number + 1, record(mask), size_hw=(64, 64)) for number, mask in enumerate(noise)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            write(tmp_path, pictures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG  # by which a run tells a full disk from a bad picture
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_it_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mobile-sam\[bulk\]'"):
        ParquetSink(SinkSettings(tmp_path))


def test_memory_does_not_grow_with_the_number_of_pictures(masks, tmp_path, monkeypatch):
    import pyarrow

    monkeypatch.setattr(parquet, "MAX_GROUP_ROWS", 1_000)
    template = record(masks[0])

    def peak_bytes(num_pictures):
        pictures = (picture(number, dict(template)) for number in range(num_pictures))
        tracemalloc.start()
        try:
            write(tmp_path, pictures)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(1)  # what is imported when it is first used
    few = peak_bytes(2_000)
    before = pyarrow.total_allocated_bytes()  # not seen by tracemalloc
    assert peak_bytes(20_000) < few + 100_000
    assert pyarrow.total_allocated_bytes() < before + 100_000
