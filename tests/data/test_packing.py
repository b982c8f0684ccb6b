"""Packing: shards that hold the files as they were, the same bytes each time, whole or not there."""

import io
import json
import os
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.masks import encode_rle
from mobile_sam.data.packing import Packing, PackOptions, resized_instances
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.data.records import Instance
from mobile_sam.data.sa1b import read_sa1b
from mobile_sam.data.tar_stream import stream_samples


@pytest.fixture
def pack(tmp_path):
    """Pack a source into tmp_path/out; keys and kinds of what failed."""

    def run(source, folder="out", **options):
        packing = Packing(open_picture_set(source), tmp_path / folder, PackOptions(**options))
        told = []
        for number, name in enumerate(packing.shard_names):
            if name not in packing.finished:
                packing.write(number, told.append)
        return [(error.key, error.kind) for error in told if error is not None]

    return run


def members_of(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path, make_jpeg):
    """Five pictures, one of them in a sub-folder and one a PNG."""
    for number, name in enumerate(["a.jpg", "b.jpg", "c.jpeg", "sub/ü.jpg"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(number))
    Image.new("RGB", (9, 5)).save(tmp_path / "pictures" / "d.png")
    return tmp_path / "pictures"


def test_files_are_packed_as_they_are(pack, folder, tmp_path):
    assert pack(folder, shard_size=3) == []
    out = tmp_path / "out"
    assert sorted(files_in(out)) == ["pack.json", "pictures_000000.tar", "pictures_000001.tar"]
    assert members_of(out / "pictures_000000.tar") == {
        name: (folder / name).read_bytes() for name in ("a.jpg", "b.jpg", "c.jpeg")
    }
    assert members_of(out / "pictures_000001.tar") == {
        name: (folder / name).read_bytes() for name in ("d.png", "sub/ü.jpg")
    }
    assert list(open_picture_set(out).keys) == list(open_picture_set(folder).keys)
    assert [sample.key for sample in stream_samples(str(out / "pictures_{000000..000001}.tar"), pytest.fail)] == [
        "a", "b", "c", "d", "sub/ü"
    ]  # fmt: skip


def test_the_same_pictures_give_the_same_bytes(pack, folder, tmp_path):
    pack(folder, "first", max_side=16)
    pack(folder, "second", max_side=16)
    assert files_in(tmp_path / "first") == files_in(tmp_path / "second")


def test_annotations_come_back_from_the_tar_and_from_the_tar_unpacked(pack, put_tar, tmp_path):
    source = put_tar("sa.tar", 1, 2)
    assert pack(source, with_annotations=True) == []
    before, after = (open_picture_set(path).read(1, with_instances=True) for path in (source, tmp_path / "out"))
    assert before.instances == after.instances
    with tarfile.open(tmp_path / "out" / "pictures_000000.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    dataset = read_sa1b(tmp_path / "unpacked")
    assert dataset.problems == ()
    assert [picture.instances for picture in dataset.pictures] == [
        open_picture_set(source).read(index, with_instances=True).instances for index in (0, 1)
    ]


def test_what_coco_knows_of_an_object_stays(pack, folder, tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 24, "width": 32}
    rle = {"size": [24, 32], "counts": [24 * 32 - 30, 30]}
    annotation = {"id": 8, "image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": rle, "area": 30.5}
    categories = [{"id": 3, "name": "cat"}]
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    pack(folder / "instances.json", with_annotations=True)
    (instance,) = open_picture_set(tmp_path / "out").read(0, with_instances=True).instances
    assert (instance.id, instance.category_id, instance.is_crowd, instance.area_px) == ("8", 3, True, 30.5)


def test_large_pictures_are_shrunk_with_their_masks_and_small_ones_are_untouched(pack, put_tar, tmp_path, make_jpeg):
    source = put_tar("sa.tar", 1, ("small.jpg", make_jpeg(3, (8, 16))))
    pack(source, max_side=16)
    out = members_of(tmp_path / "out" / "pictures_000000.tar")
    assert Image.open(io.BytesIO(out["sa_1.jpg"])).size == (16, 12)
    assert out["small.jpg"] == make_jpeg(3, (8, 16))
    pack(put_tar("b.tar", 1), "annotated", max_side=16, with_annotations=True)
    (instance,) = open_picture_set(tmp_path / "annotated").read(0, with_instances=True).instances
    assert instance.rle["size"] == [12, 16]
    assert (instance.box_xyxy, instance.area_px, instance.point_xy) == ((1, 1.5, 3.5, 4), 9, (2.25, 3.125))
    assert instance.mask.sum() == 9


def test_a_mask_that_is_lost_in_shrinking_goes():
    mask = np.zeros((100, 100), bool)
    mask[1, 1] = True
    instance = Instance("1", encode_rle(mask), (1, 1, 2, 2), 1)
    assert resized_instances([instance], (5, 5)) == ()
    assert resized_instances([instance], (100, 100)) == (instance,)


def test_broken_pictures_are_left_out_and_told(pack, put_tar, tmp_path, make_jpeg):
    source = put_tar("sa.tar", 1, ("bad.jpg", b"broken"), ("bare.jpg", make_jpeg(3)), 4)
    assert pack(source, "bare") == [("bad", "corrupt picture")]
    assert pack(source, with_annotations=True) == [("bad", "corrupt picture"), ("bare", "missing annotation")]
    assert list(open_picture_set(tmp_path / "out").keys) == ["sa_1", "sa_4"]
    (shard,) = json.loads((tmp_path / "out" / "pack.json").read_text())["shards"]
    assert shard["num_pictures"] == 2
    assert [failure[:2] for failure in shard["failures"]] == [
        ["bad", "corrupt picture"],
        ["bare", "missing annotation"],
    ]


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(pack, folder, tmp_path):
    pack(folder, "whole", shard_size=2)
    packing = Packing(open_picture_set(folder), tmp_path / "out", PackOptions(shard_size=2))
    packing.write(0, lambda _: None)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.write(1, stop)
    assert sorted(files_in(tmp_path / "out")) == ["pack.json", "pictures_000000.tar"]
    kept = (tmp_path / "out" / "pictures_000000.tar").stat().st_ino
    pack(folder, shard_size=2)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")
    assert (tmp_path / "out" / "pictures_000000.tar").stat().st_ino == kept


def test_a_finished_shard_that_was_cut_or_removed_since_is_written_again(pack, folder, tmp_path):
    pack(folder, shard_size=2)
    before = files_in(tmp_path / "out")
    (tmp_path / "out" / "pictures_000000.tar").write_bytes(b"cut")
    (tmp_path / "out" / "pictures_000001.tar").unlink()
    pack(folder, shard_size=2)
    assert files_in(tmp_path / "out") == before


def test_what_a_killed_run_left_half_written_goes(pack, folder, tmp_path):
    pack(folder)
    out = next(path.parent for path in tmp_path.rglob("pack.json"))
    left = out / ".mobile-sam-1.tar"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    pack(folder)
    assert not left.exists()


@pytest.mark.parametrize("shard", [{"name": "pictures_000000.tar"}, 5, {"failures": [], "colour": 1}])
def test_a_damaged_manifest_is_named(pack, folder, tmp_path, shard):
    pack(folder)
    (manifest,) = tmp_path.rglob("pack.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "shards": [shard]}))
    with pytest.raises(ValueError, match=r"pack\.json is damaged"):
        pack(folder)


def test_shards_made_otherwise_are_not_mixed_in(pack, folder, tmp_path, make_jpeg):
    pack(folder)
    with pytest.raises(ValueError, match="max_side was 0, is 16 now; name another folder"):
        pack(folder, max_side=16)
    (folder / "new.jpg").write_bytes(make_jpeg(9))
    with pytest.raises(ValueError, match="pictures_sha256 was"):
        pack(folder)
    (tmp_path / "out" / "pack.json").write_text("[]")
    with pytest.raises(ValueError, match="not what packing writes"):
        pack(folder)
    (tmp_path / "out" / "pack.json").unlink()
    with pytest.raises(ValueError, match=r"no pack\.json beside it"):
        pack(folder)


def test_options_out_of_range_and_a_missing_package_are_named(pack, folder, monkeypatch):
    with pytest.raises(ValueError, match="shard_size must be at least 1"):
        PackOptions(shard_size=0)
    monkeypatch.setitem(sys.modules, "webdataset.writer", None)
    with pytest.raises(MissingDependencyError, match=r"mobile-sam\[train\]"):
        pack(folder)
