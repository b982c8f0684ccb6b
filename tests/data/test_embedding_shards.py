"""Teacher embeddings on disk: whole or named, and never another teacher's."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.files import remove_abandoned
from mobile_sam.data.embedding_format import EmbeddingPlan, record_path, tar_path
from mobile_sam.data.embedding_shards import EmbeddingShards, EmbeddingShardWriter, TeacherRecord
from mobile_sam.data.picture_set import SampleError, open_picture_set
from mobile_sam.data.records import Problem

TEACHER = TeacherRecord("vit_b", "a" * 64, "b" * 16, 64, "fp32")
SHAPE = (256, 4, 4)
PLAN = EmbeddingPlan(TEACHER, "made up", "c" * 64, num_pictures=7, shard_size=3)
KEYS = ["sa_1", "sa_10", "folder/é picture", "sa_2", "x" * 150, "a/b", "last"]


def features_of(number):
    return np.random.default_rng(number).standard_normal(SHAPE).astype(np.float16)


def write(folder, plan=PLAN, shards=None, keys=KEYS):
    folder.mkdir(exist_ok=True)
    plan.write(folder)
    for shard in range(plan.num_shards) if shards is None else shards:
        with EmbeddingShardWriter.open(folder, plan, shard) as writer:
            for number in plan.pictures_of(shard):
                writer.add(keys[number], features_of(number), (10 + number, 20), (40, 64 - number))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "embeddings")


def flip_bit(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def values_at(path, number):
    """Where in a tar the values of a picture's embedding are."""
    return path.read_bytes().index(features_of(number).tobytes())


def test_embeddings_come_back_to_the_last_bit(folder):
    shards = EmbeddingShards(folder)
    assert (shards.teacher, len(shards), shards.problems) == (TEACHER, 7, ())
    for number, key in enumerate(KEYS):
        found = shards.read(key)
        assert found.features.dtype == np.float16
        assert np.array_equal(found.features, features_of(number))
        assert (found.key, found.image_hw, found.input_hw) == (key, (10 + number, 20), (40, 64 - number))


def test_keys_are_told_and_others_are_missing(folder):
    shards = EmbeddingShards(folder)
    assert sorted(shards.keys) == sorted(KEYS)
    assert [shards.keys[index] for index in range(len(KEYS))] == list(shards.keys)
    assert all(key in shards for key in KEYS)
    for other in ("sa_", "sa_100", "sa_3", "", "x" * 151, "zzz", 7):
        assert other not in shards
    with pytest.raises(SampleError, match="sa_3: no embedding in") as caught:
        shards.read("sa_3")
    assert (caught.value.key, caught.value.kind) == ("sa_3", "missing embedding")


def test_a_picture_set_finds_embeddings_whose_keys_have_dots(tmp_path):
    """Bulk's keys have them: "cat.1" is "cat_1" in a picture set, if that can mean nothing else."""
    keys = ["x.y/cat.1", "dog.1", "dog_1", "a.b.c", "a_b.c", "x.y/plain", "x.y.z"]
    shards = EmbeddingShards(write(tmp_path / "embeddings", keys=keys))
    pictures = tmp_path / "pictures"
    for name in ("x.y/cat.1.png", "dog.1.png", "dog_1.png", "a.b.c.png", "x.y/plain.png"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(pictures / name)
    found = open_picture_set(pictures)
    assert list(found.keys) == ["a_b_c", "dog_1", "x.y/cat_1", "x.y/plain"]
    assert os.path.basename(found.where(1)) == "dog_1.png"
    for key, number in (("x.y/cat_1", 0), ("dog_1", 2), ("x.y/plain", 5)):
        assert np.array_equal(shards.read(key).features, features_of(number))
    assert "a_b_c" not in shards  # it could be two
    assert "x_y/cat_1" not in shards  # folders keep their dots
    assert all(np.array_equal(shards.read(key).features, features_of(number)) for number, key in enumerate(keys))


def test_other_processes_can_read(folder):
    shards = EmbeddingShards(folder)
    assert len(pickle.dumps(shards)) < 5000  # tables, not embeddings
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(shards.read, "last").result()
    assert np.array_equal(found.features, features_of(6))


def test_tar_and_numpy_alone_can_read_a_shard(folder):
    with tarfile.open(tar_path(folder, 1)) as tar:
        assert tar.getnames() == [
            "sa_2.npy",
            "sa_2.json",
            "x" * 150 + ".npy",
            "x" * 150 + ".json",
            "a/b.npy",
            "a/b.json",
        ]
        values = np.load(io.BytesIO(tar.extractfile("a/b.npy").read()))
        sizes = json.loads(tar.extractfile("a/b.json").read())
    assert np.array_equal(values, features_of(5))
    assert sizes == {"image_hw": [15, 20], "input_hw": [40, 59]}


def test_webdataset_can_read_a_shard(folder):
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(tar_path(folder, 0)), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == KEYS[:3]
    assert np.array_equal(samples[1]["npy"], features_of(1))
    assert samples[1]["json"]["image_hw"] == [11, 20]


def test_the_table_of_contents_is_true(folder):
    tar, table = tar_path(folder, 2).read_bytes(), json.loads(record_path(folder, 2).read_text())
    assert (table["tar_bytes"], table["tar_sha256"]) == (len(tar), hashlib.sha256(tar).hexdigest())
    assert tar[table["offsets"][0] :][: features_of(6).nbytes] == features_of(6).tobytes()


def test_the_same_embeddings_give_the_same_bytes(folder, tmp_path):
    other = write(tmp_path / "other")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_the_manifest_says_all_that_values_depend_on(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["teacher"] == {
        "name": "vit_b", "weights_sha256": "a" * 64, "model_id": "b" * 16, "input_side": 64, "precision": "fp32",
    }  # fmt: skip
    assert manifest["features"] == {"dtype": "float16", "shape": [256, 4, 4]}
    assert manifest["preprocessing"]["pixel_mean"] == [123.675, 116.28, 103.53]
    assert manifest["shards"] == {"num": 3, "first": "embeddings-000000", "last": "embeddings-000002"}
    assert EmbeddingPlan.read(folder) == PLAN


@pytest.mark.parametrize("number", range(7))
def test_a_damaged_embedding_is_named_and_the_others_are_read(folder, number):
    path = tar_path(folder, number // 3)
    flip_bit(path, values_at(path, number) + 777)
    shards = EmbeddingShards(folder)
    with pytest.raises(SampleError, match=r"checksum in .* is wrong") as caught:
        shards.read(KEYS[number])
    assert (caught.value.key, caught.value.kind) == (KEYS[number], "damaged embedding")
    others = [key for key in KEYS if key != KEYS[number]]
    assert [shards.read(key).key for key in others] == others


def test_a_tar_that_is_cut_off_while_it_is_used_is_noticed(folder):
    shards = EmbeddingShards(folder)
    os.truncate(tar_path(folder, 2), 2000)
    with pytest.raises(SampleError, match="checksum"):
        shards.read("last")
    tar_path(folder, 2).unlink()
    with pytest.raises(SampleError, match="cannot be read") as caught:
        shards.read("last")
    assert caught.value.kind == "damaged embedding"


def damage(folder, how):
    tar, table = tar_path(folder, 1), record_path(folder, 1)
    if how == "truncated":
        os.truncate(tar, tar.stat().st_size - 512)
    elif how == "longer":
        tar.write_bytes(tar.read_bytes() + bytes(512))
    elif how == "without tar":
        tar.unlink()
    elif how == "unfinished":
        table.unlink()
    elif how == "no JSON":
        table.write_text(table.read_text()[:-40])
    elif how == "not a table":
        table.write_text("[1, 2]")
    else:
        content = json.loads(table.read_text())
        table.write_text(json.dumps(content | {"offsets": [0, 1, 2**40]} if how == "wild offset" else {}))


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("truncated", "damaged shard", r"it has \d+ bytes, expected \d+; copy it again"),
        ("longer", "damaged shard", r"it has \d+ bytes, expected \d+; copy it again"),
        ("without tar", "missing shard", "the tar is missing"),
        ("unfinished", "unfinished shard", "not finished"),
        ("no JSON", "damaged shard", "is not JSON"),
        ("not a table", "damaged shard", "is of format None"),
        ("emptied", "damaged shard", "is of format None"),
        ("wild offset", "damaged shard", "offsets do not lie within the tar"),
    ],
)
def test_a_shard_that_is_not_whole_is_left_out_and_named(folder, how, kind, message):
    damage(folder, how)
    shards = EmbeddingShards(folder)
    (problem,) = shards.problems
    assert (problem.kind, problem.where) == (kind, "embeddings-000001.tar")
    with pytest.raises(SampleError, match="no embedding in"):
        shards.read("sa_2")
    assert re.search(message, problem.message)
    assert sorted(shards.keys) == sorted([*KEYS[:3], "last"])
    assert shards.verify() == [problem]


def test_a_folder_without_a_whole_shard_is_refused(folder):
    for shard in range(3):
        tar_path(folder, shard).unlink()
    with pytest.raises(
        ValueError, match=r"no embedding in .* can be used, such as embeddings-000000.tar: the tar is mis"
    ):
        EmbeddingShards(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "vit_h"}, "name is vit_b here, vit_h there"),
        ({"input_side": 1024}, "input_side is 64 here, 1024 there"),
        ({"weights_sha256": "d" * 64}, f"weights_sha256 is {'a' * 64} here, {'d' * 64} there"),
        ({"precision": "bf16"}, "precision is fp32 here, bf16 there"),
    ],
)
def test_shards_of_two_teachers_in_one_folder_are_refused(folder, changes, said):
    table = record_path(folder, 1)
    content = json.loads(table.read_text())
    content["teacher"] |= changes
    table.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="mixes embeddings of two teachers") as caught:
        EmbeddingShards(folder)
    assert said in str(caught.value)


def test_verify_finds_what_no_embedding_shows(folder):
    path = tar_path(folder, 1)
    flip_bit(path, 20)  # in the name of the first member
    shards, told = EmbeddingShards(folder), []
    assert shards.problems == ()
    (problem,) = shards.verify(lambda *numbers: told.append(numbers))
    assert (problem.kind, problem.where) == ("damaged shard", "embeddings-000001.tar")
    assert "sha256" in problem.message
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_is_no_folder_of_embeddings_is_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no folder of embeddings at"):
        EmbeddingShards(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        EmbeddingShards(folder / "manifest.json")
    with pytest.raises(FileNotFoundError, match=r"there is no manifest\.json"):
        EmbeddingShards(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2; expected 'mobile-sam embeddings', 1"),
        ({"preprocessing": {"input_side": 64}}, "describes other preprocessing"),
        ({"teacher": {"name": "vit_b"}}, "damaged"),
        ({"shard_size": 0}, "damaged"),
        ({"num_pictures": None}, "damaged"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder, changes, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        EmbeddingShards(folder)


def test_a_full_disk_leaves_nothing_of_the_shard(folder, monkeypatch):
    before = {path.name for path in folder.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"), EmbeddingShardWriter.open(folder, PLAN, 1) as writer:
        writer.add("sa_2", features_of(3), (1, 1), (64, 64))
    assert {path.name for path in folder.iterdir()} == before - {"embeddings-000001.json"}
    assert [problem.kind for problem in EmbeddingShards(folder).problems] == ["unfinished shard"]


@pytest.mark.parametrize("features", [features_of(0)[:, :3], features_of(0)[None], features_of(0).astype(np.float32)])
def test_features_of_another_shape_or_dtype_are_refused(folder, features):
    with pytest.raises(ValueError, match=r"must be .*float16"), EmbeddingShardWriter.open(folder, PLAN, 1) as writer:
        writer.add("sa_2", features, (1, 1), (64, 64))


def test_skipped_pictures_are_kept_with_their_reasons(tmp_path):
    plan = replace(PLAN, num_pictures=1)
    plan.write(tmp_path)
    with EmbeddingShardWriter.open(tmp_path, plan, 0) as writer:
        writer.skip(Problem("corrupt picture", "sa_1", "is damaged"))
    (skipped,) = json.loads(record_path(tmp_path, 0).read_text())["skipped"]
    assert skipped == {"key": "sa_1", "kind": "corrupt picture", "message": "is damaged"}
    with pytest.raises(ValueError, match=r"no embedding in .* can be used"):
        EmbeddingShards(tmp_path)


def test_only_what_a_killed_process_left_is_removed(folder):
    abandoned, young, foreign = (folder / name for name in (".mobile-sam-1.tar", ".mobile-sam-2.tar", "mine.tar"))
    for path in (abandoned, young, foreign):
        path.write_bytes(b"half")
    hour_ago = time.time() - 3600
    for path in (abandoned, foreign):
        os.utime(path, (hour_ago, hour_ago))
    with EmbeddingShardWriter.open(folder, PLAN, 1) as writer:
        writer.add("sa_2", features_of(3), (1, 1), (64, 64))
        (being_written,) = set(folder.glob(".mobile-sam-*")) - {abandoned, young}
        os.utime(being_written, (hour_ago, hour_ago))
        remove_abandoned(folder, ".tar")
        assert being_written.exists()
    assert (abandoned.exists(), young.exists(), foreign.exists()) == (False, True, True)


def test_a_disk_without_locks_will_do(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    PLAN.write(tmp_path)
    with EmbeddingShardWriter.open(tmp_path, PLAN, 0) as writer:
        writer.add("sa_1", features_of(0), (1, 1), (64, 64))
    assert list(EmbeddingShards(tmp_path).keys) == ["sa_1"]
    perhaps_being_written = tmp_path / ".mobile-sam-1.tar"
    perhaps_being_written.write_bytes(b"half")
    os.utime(perhaps_being_written, (0, 0))
    remove_abandoned(tmp_path, ".tar")
    assert perhaps_being_written.exists()
