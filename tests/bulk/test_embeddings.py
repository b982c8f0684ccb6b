"""Embeddings of a run, read back by the picture's key."""

import numpy as np
import pytest

from mobile_sam.bulk.embedding_sinks import SafetensorsSink, ShardSink, describe_teacher, write_plan
from mobile_sam.bulk.embeddings import open_embeddings
from mobile_sam.bulk.items import Batch, Item, Place
from mobile_sam.bulk.results import PictureEmbedding
from mobile_sam.bulk.settings import BulkSettings

KEYS = ["a", "cats/tom", "ü.v2"]


@pytest.fixture(params=["shards", "safetensors"])
def folder(request, tmp_path, disc_engine):
    settings = BulkSettings("embed", str(tmp_path / "out"), (request.param,))
    write_plan(settings, describe_teacher(settings, disc_engine), 3, "fingerprint", "pictures")
    sink = (ShardSink if request.param == "shards" else SafetensorsSink)(settings, disc_engine)
    batch = Batch(0, tuple(Item(number, key, f"{key}.jpg", Place("x")) for number, key in enumerate(KEYS, 1)))
    for item in batch.items:
        values = np.full((256, 64, 64), item.id / 3, np.float16)
        sink.write(batch, PictureEmbedding(item.id, item.key, values, (30, 40 + item.id), (768, 1024)))
    sink.end()
    return settings.named("embeddings")


def test_embeddings_come_by_key_as_the_engine_made_them(folder):
    found = open_embeddings(folder)
    assert (sorted(found), len(found)) == (KEYS, 3)
    embedding = found["cats/tom"]
    assert (embedding.image_hw, embedding.input_hw, embedding.model_id) == ((30, 42), (768, 1024), "disc")
    assert embedding.features.dtype == np.float32
    np.testing.assert_array_equal(embedding.features, np.float32(np.float16(2 / 3)) * np.ones((1, 256, 64, 64)))
    assert "cats/tom" in found
    assert "cats" not in found


@pytest.mark.parametrize("key", ["none", "cats", "cats/tom.safetensors", ""])
def test_a_key_that_there_is_not_is_a_key_error(folder, key):
    with pytest.raises(KeyError):
        open_embeddings(folder)[key]
    assert open_embeddings(folder).get(key) is None


def test_a_damaged_embedding_is_told_when_it_is_read(folder):
    for path in folder.rglob("*.tar"):
        content = bytearray(path.read_bytes())
        content[2_000_000] ^= 1
        path.write_bytes(content)
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    found = open_embeddings(folder)
    with pytest.raises(ValueError, match=r"damaged|checksum"):
        found["a"]


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no embeddings in .*; was it `--task embed`"):
        open_embeddings(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of embeddings"):
        open_embeddings(tmp_path / "none")
    with pytest.raises(ValueError, match="is a file"):
        open_embeddings(tmp_path / "picture.jpg")
