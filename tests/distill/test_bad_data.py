"""Pictures and embeddings that cannot be used: skipped, counted, named, and too many stop the run."""

import io
import json
import logging
import tarfile

import pytest
from PIL import Image

from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill.guard import TrainingStoppedError
from mobile_sam.distill.run_data import split_data
from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train


@pytest.fixture
def damaged_tar(tmp_path, pictures):
    """A tar of all pictures, of which those at some places are cut off."""

    def make(damaged):
        path = tmp_path / "pictures.tar"
        with tarfile.open(path, "w") as tar:
            for number, picture in enumerate(sorted(pictures.glob("*.png"))):
                content = picture.read_bytes()
                content = content[: len(content) // 2] if number in damaged else content
                member = tarfile.TarInfo(picture.name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def trainable(tiny, pictures):
    """Settings of a run that validates on good pictures."""
    return lambda path, **changes: tiny(data=(str(path),), held_out=(str(pictures),), **changes)


def skipped_lines(folder):
    return [json.loads(line) for line in (folder / "skipped-0.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pictures_that_cannot_be_read_are_skipped_counted_and_named(
    trainable, tmp_path, damaged_tar, caplog, num_workers
):
    config = trainable(damaged_tar({3, 7}), max_steps=5, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        report = train(config, tmp_path / "run")
    lines = skipped_lines(tmp_path / "run")
    assert report.ending == "finished"
    assert report.num_skipped == len(lines) >= 2  # five steps of two pictures are one pass over all ten
    assert {line["key"] for line in lines} == {"3", "7"}
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["train/skipped"] == len(lines)
    warnings = [record.getMessage() for record in caplog.records if "a picture is skipped" in record.getMessage()]
    assert len(warnings) == len({line["kind"] for line in lines})


def test_too_many_stop_the_run_with_their_kinds_and_the_checkpoint(trainable, tmp_path, damaged_tar):
    path = damaged_tar({0, 1, 2, 3, 4})
    with pytest.raises(TrainingStoppedError) as raised:
        train(trainable(path, max_steps=40, checkpoint_every=1, max_skipped=0.2), tmp_path / "run")
    message = str(raised.value)
    lines = skipped_lines(tmp_path / "run")
    assert len(lines) > 8
    assert f"{len(lines)} pictures cannot be used ({len(lines)} x {lines[0]['kind']})" in message
    assert "more than max_skipped=0.2" in message
    assert "the last good checkpoint is" in message


def test_the_user_sets_the_limit(trainable, tmp_path, damaged_tar):
    config = trainable(damaged_tar({0, 1, 2, 3, 4}), max_steps=12, max_skipped=1.0)
    report = train(config, tmp_path / "run")
    assert (report.ending, report.num_skipped > 8) == ("finished", True)


def test_a_run_that_goes_on_counts_each_skipped_picture_once(trainable, tmp_path, damaged_tar):
    config = trainable(damaged_tar({3, 7}), max_steps=10, checkpoint_every=4)
    train(config, tmp_path / "whole")

    def crash(step, num_steps, found):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "crashed", tell=crash)
    report = train(config, tmp_path / "crashed")
    assert skipped_lines(tmp_path / "crashed") == skipped_lines(tmp_path / "whole")
    assert report.num_skipped == len(skipped_lines(tmp_path / "whole"))


def test_pictures_without_an_embedding_are_skipped(trainable, tiny, tmp_path, pictures):
    more = tmp_path / "more"
    more.mkdir()
    for picture in pictures.glob("*.png"):
        (more / picture.name).write_bytes(picture.read_bytes())
    Image.new("RGB", (30, 30)).save(more / "new.png")
    report = train(trainable(more, max_steps=6), tmp_path / "run")
    assert {(line["key"], line["kind"]) for line in skipped_lines(tmp_path / "run")} == {("new", "missing embedding")}
    assert report.ending == "finished"


def test_damaged_embeddings_are_skipped(tiny, tmp_path, pictures, write_embeddings):
    folder = write_embeddings(tmp_path / "embeddings", pictures)
    training, _ = split_data(tiny())
    key = training.keys[0]
    values = EmbeddingShards(folder).read(key).features.tobytes()
    (tar,) = folder.glob("*.tar")
    content = bytearray(tar.read_bytes())
    content[content.index(values) + 100] ^= 1
    tar.write_bytes(content)
    train(tiny(max_steps=5, embeddings=str(folder)), tmp_path / "run")
    assert {(line["key"], line["kind"]) for line in skipped_lines(tmp_path / "run")} == {(key, "damaged embedding")}


def test_embeddings_of_other_pictures_end_the_run(tiny, tmp_path, pictures, embeddings):
    turned = tmp_path / "turned"
    turned.mkdir()
    for picture in pictures.glob("*.png"):
        Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(turned / picture.name)
    with pytest.raises(ValueError, match=r"pictures in a row cannot be used.*embed these pictures again") as raised:
        train(tiny(data=(str(turned),), held_out=(str(pictures),)), tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_tar_that_is_cut_off_gives_what_is_whole_and_is_told(trainable, tmp_path, damaged_tar, caplog):
    path = damaged_tar(set())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    num_whole = len(open_picture_set(path))
    assert 2 < num_whole < 10
    with caplog.at_level(logging.WARNING):
        report = train(trainable(path, max_steps=2), tmp_path / "run")
    assert report.ending == "finished"
    assert "pictures.tar" in caplog.text


def test_held_out_pictures_that_all_fail_are_an_error(tiny, tmp_path, pictures, damaged_tar):
    with pytest.raises(ValueError, match="none of the 2 held-out pictures can be used"):
        train(tiny(held_out=(str(damaged_tar(set(range(10)))),), num_held_out=2), tmp_path / "run")
