"""Embeddings on disk: found by picture and encoder, and never in the way of the work."""

import logging

import numpy as np
import pytest

from mobile_sam.core.embedding import Embedding
from mobile_sam.data.embedding_store import EmbeddingStore

PICTURE, OTHER_PICTURE = b"the bytes of a picture", b"the bytes of another"


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "kept" / "embeddings")


@pytest.fixture
def embedding():
    features = np.random.default_rng(0).standard_normal((1, 256, 4, 4)).astype(np.float32)
    return Embedding(features, (30, 40), (48, 64), "tiny")


def test_an_embedding_comes_back_to_the_last_bit(store, embedding):
    store.put("tiny cpu", PICTURE, embedding)
    found = store.get("tiny cpu", PICTURE, "tiny")
    assert np.array_equal(found.features, embedding.features)
    assert (found.image_hw, found.input_hw, found.model_id) == ((30, 40), (48, 64), "tiny")


def test_another_process_finds_it(store, embedding):
    store.put("tiny cpu", PICTURE, embedding)
    assert EmbeddingStore(store.folder).get("tiny cpu", PICTURE, "tiny") is not None


@pytest.mark.parametrize(
    ("encoder", "picture", "model_id"),
    [
        ("tiny cuda", PICTURE, "tiny"),
        ("", PICTURE, "tiny"),
        ("tiny cpu", OTHER_PICTURE, "tiny"),
        ("tiny cpu", PICTURE[:-1], "tiny"),
        ("tiny cpu", PICTURE, "other weights"),
    ],
)
def test_what_differs_in_anything_is_not_found(store, embedding, encoder, picture, model_id):
    store.put("tiny cpu", PICTURE, embedding)
    assert store.get(encoder, picture, model_id) is None


def test_encoders_whose_names_are_no_file_names_are_kept_apart(store, embedding):
    names = ["device=cuda:0 precision=bf16", "a/b", "../a", "Ü", "a" * 1000]
    paths = {store.path(name, PICTURE) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent.parent == store.folder for path in paths)
    store.put(names[-1], PICTURE, embedding)
    assert store.get(names[-1], PICTURE, "tiny") is not None


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "flipped", "folder"])
def test_a_damaged_file_counts_as_missing_and_says_so(store, embedding, caplog, damage):
    store.put("tiny cpu", PICTURE, embedding)
    path = store.path("tiny cpu", PICTURE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    damaged = {"empty": b"", "cut": bytes(content[: len(content) // 2]), "bytes": b"text", "flipped": bytes(content)}
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(damaged[damage])
    assert store.get("tiny cpu", PICTURE, "tiny") is None
    assert (path.name in caplog.text) == (damage != "folder")


def test_a_damaged_file_is_written_anew(store, embedding):
    store.path("tiny cpu", PICTURE).parent.mkdir()
    store.path("tiny cpu", PICTURE).write_bytes(b"damaged")
    store.put("tiny cpu", PICTURE, embedding)
    assert store.get("tiny cpu", PICTURE, "tiny") is not None


def test_a_full_disk_is_told_once_and_stops_nothing(store, embedding, monkeypatch, caplog):
    attempts = []

    def save(self, path):
        attempts.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Embedding, "save", save)
    for picture in (PICTURE, OTHER_PICTURE):
        store.put("tiny cpu", picture, embedding)
    assert len(attempts) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no longer stored" in record.message
    assert "No space left" in record.message


def test_what_was_stored_is_found_though_nothing_more_can_be_written(store, embedding, monkeypatch):
    store.put("tiny cpu", PICTURE, embedding)
    monkeypatch.setattr(Embedding, "save", lambda self, path: (_ for _ in ()).throw(OSError("full")))
    store.put("tiny cpu", OTHER_PICTURE, embedding)
    assert store.get("tiny cpu", PICTURE, "tiny") is not None
    assert store.get("tiny cpu", OTHER_PICTURE, "tiny") is None


def test_a_folder_that_vanishes_stops_nothing(store, embedding, caplog):
    store.folder.rmdir()
    store.put("tiny cpu", PICTURE, embedding)
    assert store.get("tiny cpu", PICTURE, "tiny") is None
    assert "no longer stored" in caplog.text


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; name a folder for the embeddings"):
        EmbeddingStore(tmp_path / "file")
