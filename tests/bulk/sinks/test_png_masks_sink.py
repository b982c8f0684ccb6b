import csv
import os
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from mobile_sam.bulk.sinks import png_masks
from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.png_masks import PngMasksSink


@pytest.fixture
def sink(tmp_path):
    return PngMasksSink(SinkSettings(tmp_path))


def test_pillow_reads_the_masks_as_0_and_255(sink, tmp_path, two_pictures, plain_masks):
    for picture, masks in zip(two_pictures, plain_masks, strict=True):
        sink.write(picture)
        folder = tmp_path / "masks" / picture.key
        assert sorted(os.listdir(folder)) == ["0.png", "1.png", "2.png", "metadata.csv"]
        for index, mask in enumerate(masks):
            image = Image.open(folder / f"{index}.png")
            assert image.mode == "L"
            assert_array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_the_table_has_the_columns_and_values_of_sam(sink, tmp_path, two_pictures):
    for picture in two_pictures:
        sink.write(picture)
    rows = list(csv.reader((tmp_path / "masks" / "b" / "metadata.csv").open()))
    names = "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score"
    assert rows[0] == f"{names},crop_box_x0,crop_box_y0,crop_box_w,crop_box_h".split(",")
    assert ",".join(rows[2]) == "1,1,31,17,0,0,,,0.9375,0.96875,0,0,50,40"  # of a box: no point
    (_, disc, *_) = csv.reader((tmp_path / "masks" / two_pictures[0].key / "metadata.csv").open())
    # a disc of radius 18 around (30, 25), whose first pixel is the top one
    assert disc[2:8] == ["12", "7", "36", "36", "30.5", "7.5"]


def test_writing_again_leaves_no_earlier_mask_and_what_is_not_ours(sink, tmp_path, two_pictures):
    sink.write(two_pictures[0])
    folder = tmp_path / "masks" / two_pictures[0].key
    for name in ("notes.txt", "01.png", "x.png"):
        (folder / name).write_text("mine")
    sink.write(replace(two_pictures[0], records=two_pictures[0].records[1:2]))
    assert sorted(os.listdir(folder)) == ["0.png", "01.png", "metadata.csv", "notes.txt", "x.png"]
    assert len((folder / "metadata.csv").read_text().splitlines()) == 2


def test_a_folder_that_is_not_there_appears_at_once(sink, tmp_path, two_pictures, monkeypatch):
    seen = []

    def look(new, folder):
        seen.append((sorted(os.listdir(new)), folder.exists()))
        rename(new, folder)

    rename = os.rename
    monkeypatch.setattr(png_masks.os, "rename", look)
    monkeypatch.setattr(png_masks, "_move_into", None)
    sink.write(two_pictures[1])
    assert seen == [(["0.png", "1.png", "2.png", "metadata.csv"], False)]


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_table_is_only_there_with_all_masks_and_a_killed_write_is_made_good(
    sink, tmp_path, two_pictures, monkeypatch, killed_at, files_in
):
    sink.write(two_pictures[0])
    expected = files_in(tmp_path)
    num_moved = 0

    def replace_until_killed(source, target):
        nonlocal num_moved
        if num_moved == killed_at:
            raise KeyboardInterrupt
        num_moved += 1
        move(source, target)

    move = os.replace
    original = png_masks._move_into

    def moving(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(png_masks.os, "replace", replace_until_killed)
            original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(png_masks, "_move_into", moving)
        with pytest.raises(KeyboardInterrupt):
            sink.write(two_pictures[0])
    assert not (tmp_path / "masks" / two_pictures[0].key / "metadata.csv").exists()
    sink.write(two_pictures[0])
    assert files_in(tmp_path) == expected


def test_the_first_folder_of_a_picture_may_be_there_and_empty(sink, tmp_path, two_pictures):
    (tmp_path / "masks" / "b").mkdir(parents=True)
    sink.write(two_pictures[1])
    assert len(os.listdir(tmp_path / "masks" / "b")) == 4


def test_a_disk_that_refuses_is_not_taken_for_a_folder_that_is_there(sink, tmp_path, two_pictures, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "no", str(target))

    monkeypatch.setattr(png_masks.os, "rename", refuse)
    with pytest.raises(PermissionError):
        sink.write(two_pictures[1])
    assert os.listdir(tmp_path / "masks") == []
