"""The embed job: the same shards however it was stopped, divided or disturbed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam
from mobile_sam.core.images import read_image
from mobile_sam.data import embedding_writer
from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill import embed as embed_module
from mobile_sam.distill.embed import EmbedOptions, embed, part_from_environment
from mobile_sam.distill.teacher import Teacher

NUM_PICTURES, SHARD_SIZE, BATCH_SIZE = 11, 4, 2
HANGS_IN_THE_SECOND_SHARD = """
import sys, time
import torch
torch.set_num_threads(1)
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill.embed import EmbedOptions, embed
from mobile_sam.distill.teacher import Teacher
teacher = Teacher(sys.argv[1], device="cpu")
encode, calls = teacher.encode_resized, []
def encode_or_hang(pixels):
    calls.append(pixels)
    if len(calls) == 4:
        print("hangs", flush=True)
        time.sleep(600)
    return encode(pixels)
teacher.encode_resized = encode_or_hang
embed(open_picture_set(sys.argv[2]), teacher, sys.argv[3], shard_size=4, options=EmbedOptions(batch_size=2))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    torch.manual_seed(0)
    save_sam(build_sam_vit_t_1m(input_side=64), path, name="vit_t_1m")
    return path


@pytest.fixture(scope="module")
def teacher(checkpoint):
    return Teacher(checkpoint, device="cpu")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        Image.fromarray(rng.integers(0, 256, (30 + number, 50, 3), np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def run(source, teacher, tmp_path):
    """Embed the pictures into a folder, the lines told being kept."""

    def run_into(name, shard_size=SHARD_SIZE, pictures=None, by=teacher, **options):
        lines.clear()
        chosen = EmbedOptions(**{"batch_size": BATCH_SIZE, "num_workers": 0, "tell": lines.append} | options)
        chosen_set = open_picture_set(source) if pictures is None else pictures
        return embed(chosen_set, by, tmp_path / name, shard_size=shard_size, options=chosen)

    lines = []
    run_into.lines = lines
    return run_into


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_is_stored_is_the_engines_embedding_rounded_to_float16(run, teacher, source, tmp_path):
    report = run("out")
    shards = EmbeddingShards(tmp_path / "out")
    assert (shards.teacher, len(shards), shards.problems, shards.verify()) == (teacher.record, NUM_PICTURES, (), [])
    assert (report.num_shards, report.num_kept, report.num_embedded, report.skipped) == (3, 0, NUM_PICTURES, ())
    for key in shards.keys:
        stored = shards.read(key)
        (expected,) = teacher.engine.encode([read_image(source / f"{Path(key).stem}.png")])
        spacing = np.spacing(np.abs(stored.features)).astype(np.float32)  # batches change the last bits of a float32
        assert (np.abs(stored.features - expected.features[0]) <= 0.5 * spacing + 1e-5).all()
        assert (stored.image_hw, stored.input_hw) == (expected.image_hw, expected.input_hw)


def test_other_processes_that_read_change_nothing(run, tmp_path):
    run("alone")
    run("helped", num_workers=2)
    assert content(tmp_path / "helped") == content(tmp_path / "alone")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is nothing of the kind on this system")
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(run, checkpoint, source, tmp_path):
    out = tmp_path / "killed"
    arguments = map(str, (checkpoint, source, out))
    with subprocess.Popen(
        [sys.executable, "-c", HANGS_IN_THE_SECOND_SHARD, *arguments], stdout=subprocess.PIPE
    ) as hung:
        assert hung.stdout.readline() == b"hangs\n"
        hung.kill()
    assert {path.name for path in out.glob("*.json")} == {"manifest.json", "embeddings-000000.json"}
    (half,) = out.glob(".mobile-sam-*")
    os.utime(half, (0, 0))  # as if it had lain for a while
    first = (out / "embeddings-000000.tar").stat().st_mtime_ns
    report = run("killed")
    assert (report.num_kept, report.num_embedded) == (1, NUM_PICTURES - SHARD_SIZE)
    assert (out / "embeddings-000000.tar").stat().st_mtime_ns == first
    assert list(out.glob(".mobile-sam-*")) == []
    run("undisturbed")
    assert content(out) == content(tmp_path / "undisturbed")


def test_ctrl_c_leaves_whole_shards_only(run, teacher, monkeypatch, tmp_path):
    def interrupted(self, items, encode=embed_module._Job._encode):
        if self.num_done == 6:
            raise KeyboardInterrupt
        return encode(self, items)

    monkeypatch.setattr(embed_module._Job, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("out")
    assert set(os.listdir(tmp_path / "out")) == {"manifest.json", "embeddings-000000.json", "embeddings-000000.tar"}


def test_parts_together_are_the_whole(run, tmp_path):
    run("whole")
    first, second = run("parts", part=(0, 2)), run("parts", part=(1, 2))
    assert (first.num_embedded, second.num_embedded) == (4 + 3, 4)  # shards 0 and 2, shard 1
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_part_may_have_nothing_to_do(run):
    assert run("out", part=(5, 6)).num_embedded == 0


def test_torchruns_processes_are_parts(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert part_from_environment() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert part_from_environment() == (3, 8)


def test_nothing_is_made_twice(run, tmp_path):
    run("out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = run("out")
    assert (report.num_kept, report.num_embedded, report.pictures_per_s) == (3, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_shard_that_was_cut_off_is_made_anew(run, tmp_path):
    run("out")
    expected = content(tmp_path / "out")
    os.truncate(tmp_path / "out" / "embeddings-000001.tar", 1000)
    assert run("out").num_kept == 2
    assert any("embeddings-000001.tar is made anew: it has 1000 bytes" in line for line in run.lines)
    assert content(tmp_path / "out") == expected


def test_verify_makes_damaged_shards_anew(run, tmp_path):
    run("out")
    expected = content(tmp_path / "out")
    path = tmp_path / "out" / "embeddings-000001.tar"
    path.write_bytes(expected[path.name][:3000] + b"?" + expected[path.name][3001:])
    assert run("out").num_kept == 3
    assert run("out", verify=True).num_kept == 2
    assert content(tmp_path / "out") == expected


def test_shards_of_other_pictures_are_made_anew(run, tmp_path):
    """As when someone put back another manifest."""
    run("out")
    expected = content(tmp_path / "out")
    table = tmp_path / "out" / "embeddings-000002.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | {"keys": ["x", "y", "z"]}))
    assert run("out").num_kept == 2
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("what", ["teacher", "precision", "pictures", "shard size"])
def test_a_folder_of_other_embeddings_is_refused(run, source, checkpoint, tmp_path, what):
    run("out")
    before = content(tmp_path / "out")
    changed, said = {
        "precision": (
            lambda: {"by": Teacher(checkpoint, device="cpu", precision="bf16")},
            "teacher's precision is bf16 here, fp32 there",
        ),
        "teacher": (lambda: {"by": other_teacher(tmp_path)}, "teacher's weights_sha256 is "),
        "pictures": (
            lambda: {"pictures": open_picture_set(source).subset(range(5))},
            f"other pictures: 5 pictures of {source.name} here, 11 pictures of {source.name} there",
        ),
        "shard size": (lambda: {"shard_size": 5}, "shard size is 5 here, 4 there"),
    }[what]
    with pytest.raises(ValueError, match="holds other embeddings than those asked for") as caught:
        run("out", **changed())
    assert said in str(caught.value)
    assert content(tmp_path / "out") == before


def other_teacher(folder):
    path = folder / "other.safetensors"
    save_sam(build_sam_vit_t_1m(input_side=128), path, name="vit_t_1m")
    return Teacher(path, device="cpu")


def test_bad_pictures_are_skipped_named_and_kept_on_record(run, source, tmp_path):
    (source / "05.png").write_bytes((source / "05.png").read_bytes()[:200])
    report = run("out")
    (skipped,) = report.skipped
    assert (report.num_embedded, len(EmbeddingShards(tmp_path / "out"))) == (10, 10)
    assert skipped.where.startswith("05")
    assert any(line.startswith(f"skipped {skipped.where}: ") for line in run.lines)
    (on_record,) = json.loads((tmp_path / "out" / "embeddings-000001.json").read_text())["skipped"]
    assert (on_record["key"], on_record["message"]) == (skipped.where, skipped.message)
    again = run("out")
    assert (again.num_kept, again.skipped) == (3, (skipped,))


def test_a_shard_without_a_usable_picture_is_finished_all_the_same(run, source, tmp_path):
    for number in range(4):
        (source / f"{number:02d}.png").write_bytes(b"no picture")
    report = run("out")
    assert (report.num_embedded, len(report.skipped)) == (7, 4)
    assert run("out").num_kept == 3
    assert len(EmbeddingShards(tmp_path / "out")) == 7


def test_too_many_bad_pictures_stop_the_run(run, source, tmp_path):
    for number in range(1, NUM_PICTURES):
        (source / f"{number:02d}.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"9 of the first 10 pictures cannot be used, .* 0\.5 that --max-skipped allows"
    ):
        run("out", max_skipped=0.5)
    assert (tmp_path / "out" / "embeddings-000001.json").exists()
    assert not (tmp_path / "out" / "embeddings-000002.json").exists()
    assert len(run("out", max_skipped=1.0).skipped) == 10


def test_an_embedding_that_is_not_finite_is_skipped(run, teacher, monkeypatch):
    encode = teacher.encode_resized

    def overflowing(pixels):
        features = encode(pixels)
        features[0, 7, 1, 1] = 70_000.0  # more than a float16 holds
        return features

    monkeypatch.setattr(teacher, "encode_resized", overflowing)
    report = run("out", max_skipped=1.0)
    assert [problem.kind for problem in report.skipped] == ["infinite embedding"] * 6  # the first of each batch
    assert "--precision fp32" in report.skipped[0].message


def test_a_full_disk_is_said_in_a_line_and_leaves_whole_shards(run, monkeypatch, tmp_path):
    write, written = embedding_writer._Hashing.write, []

    def write_until_full(self, block):
        written.append(len(block))
        if sum(written) > 60_000:  # a shard has some 45,000 bytes
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, block)

    monkeypatch.setattr(embedding_writer._Hashing, "write", write_until_full)
    with pytest.raises(OSError, match=r"the disk of .* is full: embeddings-000001 was not written, .* make room"):
        run("out")
    assert set(os.listdir(tmp_path / "out")) == {"manifest.json", "embeddings-000000.json", "embeddings-000000.tar"}
    monkeypatch.undo()
    assert run("out").num_kept == 1


def test_too_little_room_is_said_before_anything_is_encoded(run, teacher, monkeypatch, tmp_path):
    big = replace(teacher.record, input_side=1024)
    monkeypatch.setattr(teacher, "record", big)
    usage = namedtuple("usage", "free")(10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"need 22 MiB and .* has 10 MiB free, 12 MiB too little"):
        run("out")
    assert run.lines[0] == "pictures: 11 pictures, 22 MiB in 3 shards"
    assert not list((tmp_path / "out").glob("*.tar"))


def test_pace_and_time_left_are_told_for_each_shard(run):
    seen = []
    run("out", progress=lambda *numbers: seen.append(numbers))
    shards = [line for line in run.lines if line.startswith("embeddings-")]
    assert [line.split(";")[0] for line in shards] == [f"embeddings-00000{n}: {n + 1} of 3 shards" for n in range(3)]
    assert shards[0].split("; ")[1].startswith("4 of 11 pictures, ")
    assert "pictures/s" in shards[0]
    assert shards[2].endswith("0:00:00 left")
    assert [num_done for num_done, _, _ in seen] == [0, 2, 4, 6, 8, 10, 11]


def test_a_reader_that_dies_is_said(run, source, tmp_path, monkeypatch):
    pictures = open_picture_set(source)
    monkeypatch.setattr(type(pictures), "read", lambda self, index: os._exit(9))
    with pytest.raises(OSError, match="a process that reads pictures has died"):
        run("out", pictures=pictures, num_workers=1)
    assert os.listdir(tmp_path / "out") == ["manifest.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": (2, 2)}, r"part must be \(index, count\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more"),
        ({"max_skipped": 1.5}, r"max_skipped must be a share in \[0, 1\], got 1.5"),
        ({"shard_size": 0}, "shards of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run("out", **options)


def test_a_file_where_the_folder_should_be_is_refused(run, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run("out")
