"""Embeddings on the disk: as `distill train` reads them, also after a batch was cut in two."""

import errno
import json
import tarfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from mobile_sam.bulk.embedding_sinks import SafetensorsSink, ShardSink, describe_teacher, write_plan
from mobile_sam.bulk.items import Batch, Failed, Item, Place, RunStoppedError
from mobile_sam.bulk.results import PictureEmbedding
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.core.weights import BUNDLED, find_checkpoint
from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.embedding_writer import EmbeddingShardWriter

ITEMS = tuple(Item(number, f"p{number}", f"p{number}.jpg", Place("x")) for number in range(1, 5))
WHOLE = Batch(0, ITEMS)


def features(number):
    return np.random.default_rng(number).normal(size=(256, 64, 64)).astype(np.float16)


def embedding(item):
    return PictureEmbedding(item.id, item.key, features(item.id), (30 + item.id, 40), (768, 1024))


@pytest.fixture
def settings(tmp_path):
    return BulkSettings("embed", str(tmp_path / "out"), batch_size=4)


@pytest.fixture
def make_sink(settings, disc_engine):
    def make():
        write_plan(settings, describe_teacher(settings, disc_engine), 4, "fingerprint", "pictures")
        return ShardSink(settings, disc_engine)

    return make


@pytest.fixture
def folder(settings):
    return settings.named("embeddings")


def write(sink, batch, done, failed=()):
    for item in done:
        sink.write(batch, embedding(item))
    for item in failed:
        sink.skip(batch, item, Failed(item.id, "corrupt picture", "it is damaged"))
    sink.end()


def check(folder, items):
    shards = EmbeddingShards(folder)
    assert list(shards.keys) == sorted(item.key for item in items)
    assert shards.verify() == []
    for item in items:
        stored = shards.read(item.key)
        np.testing.assert_array_equal(stored.features, features(item.id))
        assert (stored.image_hw, stored.input_hw) == ((30 + item.id, 40), (768, 1024))


def skipped(folder):
    record = json.loads((folder / "embeddings-000000.json").read_text())
    return [(one["key"], one["kind"]) for one in record["skipped"]]


def test_shards_are_read_as_those_for_training(make_sink, folder):
    write(make_sink(), WHOLE, ITEMS[:3], ITEMS[3:])
    check(folder, ITEMS[:3])
    assert skipped(folder) == [("p4", "corrupt picture")]
    with tarfile.open(folder / "embeddings-000000.tar") as tar:  # as webdataset does
        assert tar.getnames()[:2] == ["p1.npy", "p1.json"]


def test_a_batch_cut_in_two_gives_the_same_bytes(make_sink, folder):
    write(make_sink(), WHOLE, ITEMS)
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "embeddings-000000.tar").unlink()
    (folder / "embeddings-000000.json").unlink()
    write(make_sink(), WHOLE, ITEMS[:2])
    write(make_sink(), Batch(0, ITEMS[2:]), ITEMS[2:])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_a_picture_tried_again_takes_the_place_of_its_failure(make_sink, folder):
    write(make_sink(), WHOLE, ITEMS[:2], ITEMS[2:])
    write(make_sink(), Batch(0, ITEMS[2:3]), ITEMS[2:3])
    check(folder, ITEMS[:3])
    assert skipped(folder) == [("p4", "corrupt picture")]


@pytest.mark.parametrize("moment", ["before the tar", "after the tar"])
def test_killed_while_a_shard_is_taken_over_nothing_is_lost(make_sink, folder, monkeypatch, moment):
    write(make_sink(), WHOLE, ITEMS[:2])
    rest = Batch(0, ITEMS[2:])
    if moment == "before the tar":  # the table of contents is removed first
        (folder / "embeddings-000000.json").unlink()
    else:
        monkeypatch.setattr(EmbeddingShardWriter, "_record", None)
        with pytest.raises(TypeError):
            write(make_sink(), rest, ITEMS[2:])
        monkeypatch.undo()
    assert [path.name for path in folder.glob("embeddings*")] == ["embeddings-000000.tar"]
    write(make_sink(), rest, ITEMS[2:])
    check(folder, ITEMS)


def test_a_shard_that_was_never_told_of_is_written_anew(make_sink, folder):
    write(make_sink(), WHOLE, ITEMS)
    write(make_sink(), WHOLE, ITEMS)
    check(folder, ITEMS)


@pytest.mark.parametrize("has_table", [True, False])
def test_damage_in_what_is_taken_over_stops_the_run(make_sink, folder, has_table):
    write(make_sink(), WHOLE, ITEMS[:2])
    tar = folder / "embeddings-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1_000_000])
    if not has_table:
        (folder / "embeddings-000000.json").unlink()
    sink = make_sink()
    with pytest.raises(RunStoppedError, match=r"done before cannot be read: .*embeddings-000000.tar"):
        write(sink, Batch(0, ITEMS[2:]), ITEMS[2:])
    sink.abort()
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".tar") == ["embeddings-000000.tar"]


def test_nothing_of_a_shard_is_there_before_its_end_nor_after_an_error(make_sink, folder, monkeypatch):
    sink = make_sink()
    sink.write(WHOLE, embedding(ITEMS[0]))
    assert not (folder / "embeddings-000000.tar").exists()
    sink.abort()
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    sink.abort()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write(sink, WHOLE, ITEMS)
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_plan_is_kept_and_another_encoders_is_refused(settings, disc_engine, engine, folder, tmp_path):
    teacher = describe_teacher(settings, disc_engine)
    assert (teacher.name, teacher.weights_sha256, teacher.model_id) == ("mobile_sam", BUNDLED.file_sha256, "disc")
    write_plan(settings, teacher, 4, "one", "pictures")
    assert write_plan(settings, teacher, 9, "two", "pictures").num_shards == 3  # pictures were added
    assert json.loads((folder / "manifest.json").read_text())["num_pictures"] == 9
    with pytest.raises(ValueError, match=r"other embeddings than those asked for: teacher's model_id is .* disc there"):
        write_plan(settings, describe_teacher(settings, engine), 4, "one", "pictures")
    assert write_plan(BulkSettings("embed", str(tmp_path), ("safetensors",)), teacher, 4, "one", "x") is None
    assert write_plan(settings, teacher, 0, "one", "x") is None


def test_the_encoder_is_described_without_running_it(settings, engine, tmp_path):
    assert find_checkpoint(settings.model) is None
    assert describe_teacher(settings) == describe_teacher(settings, engine)


def test_without_a_plan_no_shard_is_begun(settings, disc_engine):
    with pytest.raises(RunStoppedError, match=r"the plan of the embeddings cannot be read: .*run the same again"):
        ShardSink(settings, disc_engine)


def test_safetensors_has_features_sizes_and_encoder(settings, disc_engine, folder):
    sink = SafetensorsSink(settings, disc_engine)
    deep = Item(1, "cats/tom", "cats/tom.jpg", Place("x"))
    sink.write(Batch(0, (deep,)), PictureEmbedding(1, "cats/tom", features(1), (31, 40), (768, 1024)))
    loaded = load_file(folder / "cats" / "tom.safetensors")
    assert list(loaded) == ["features"]
    np.testing.assert_array_equal(loaded["features"], features(1))
    header = (folder / "cats" / "tom.safetensors").read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert metadata == {"key": "cats/tom", "image_hw": "[31, 40]", "input_hw": "[768, 1024]", "model_id": "disc"}
    sink.skip(Batch(0, (deep,)), deep, Failed(1, "x", "y"))
    sink.end()
    assert [path.name for path in folder.rglob("*.safetensors")] == ["tom.safetensors"]
