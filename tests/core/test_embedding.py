import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam.core.embedding import Embedding


def features(h=2, w=2, **changes):
    shape, dtype = changes.get("shape", (1, 256, h, w)), changes.get("dtype", np.float32)
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.fixture
def embedding():
    return Embedding(features(), image_hw=(30, 20), input_hw=(32, 21), model_id="abc")


@pytest.fixture
def stored(embedding, tmp_path):
    embedding.save(tmp_path / "picture.npz")
    return tmp_path / "picture.npz"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_equals_what_was_saved(embedding, stored):
    loaded = Embedding.load(stored)
    assert_array_equal(loaded.features, embedding.features)
    assert loaded.features.dtype == np.float32
    assert (loaded.image_hw, loaded.input_hw, loaded.model_id) == ((30, 20), (32, 21), "abc")
    assert names(stored.parent) == ["picture.npz"]


@given(h=st.integers(1, 5000), w=st.integers(1, 5000))
def test_the_frame_follows_from_features_and_picture(h, w):
    embedding = Embedding(features(4, 4), (h, w), (64, 64), "abc")
    assert embedding.input_side == 64
    assert max(embedding.resize.input_hw) == 64
    assert embedding.resize.image_hw == (h, w)


def test_the_longer_side_of_the_features_is_the_models_side():
    assert Embedding(features(2, 3), (30, 20), (32, 48), "abc").input_side == 48


def test_a_failed_write_leaves_the_old_file_and_no_other(embedding, stored, monkeypatch):
    before = stored.read_bytes()

    def write_half(path, **fields):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(OSError, match="disk full"):
        embedding.save(stored)
    assert names(stored.parent) == ["picture.npz"]
    assert stored.read_bytes() == before


@pytest.mark.parametrize("name", ["picture", "picture.npy", "picture.npz.gz"])
def test_only_npz_is_written(embedding, tmp_path, name):
    with pytest.raises(ValueError, match=rf"saved as \.npz, got '{name}'"):
        embedding.save(tmp_path / name)
    assert names(tmp_path) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no embedding at .*nowhere\.npz; save one with"):
        Embedding.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<!DOCTYPE html>", bytes(200)])
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is not an embedding file, or it is damaged"):
        Embedding.load(path)


def test_a_single_array_is_no_embedding(tmp_path):
    np.save(tmp_path / "array.npy", features())
    with pytest.raises(ValueError, match="is not an embedding file"):
        Embedding.load(tmp_path / "array.npy")


def test_a_pickle_in_the_file_is_not_unpickled(tmp_path):
    path = tmp_path / "pickle.npz"
    np.savez(path, features=np.array([{}], object), image_hw=[1, 1], input_hw=[1, 1], model_id="abc")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Embedding.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_hw": None},
        {"image_hw": 3},
        {"image_hw": [30, 20, 3]},
        {"image_hw": [np.inf, 20]},
        {"image_hw": ["a", "b"]},
        {"input_hw": [33, 21]},
        {"input_hw": [0, 21]},
        {"features": np.zeros((256, 2, 2), np.float32)},
        {"features": np.zeros((1, 256, 2, 2))},
    ],
)
def test_fields_that_do_not_fit_are_refused_with_the_files_name(tmp_path, changes):
    fields = {"features": features(), "image_hw": [30, 20], "input_hw": [32, 21], "model_id": "abc"} | changes
    path = tmp_path / "changed.npz"
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    with pytest.raises(ValueError, match=r"changed\.npz is not an embedding file, or it is damaged"):
        Embedding.load(path)


def refusal(path):
    """What `Embedding.load` says against a file, or None when it takes it."""
    try:
        Embedding.load(path)
    except ValueError as error:
        return str(error)
    return None


def test_every_cut_and_most_flipped_bits_are_refused_as_damage(stored):
    whole, random = stored.read_bytes(), np.random.default_rng(1)
    for kept_bytes in random.integers(0, len(whole), 100):
        stored.write_bytes(whole[:kept_bytes])
        assert "damaged" in refusal(stored)
    refusals = []
    ends = [*range(300), *range(len(whole) - 1000, len(whole))]  # where zip and numpy keep their headers
    for place in random.choice(ends, 300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.integers(8)
        stored.write_bytes(flipped)
        refusals.append(refusal(stored))
    assert all(message is None or "damaged" in message for message in refusals)
    assert sum(message is not None for message in refusals) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": features(shape=(256, 2, 2))}, r"features must be \(1, 256, h, w\) float32, got \(256, 2, 2\)"),
        ({"features": features(shape=(2, 256, 2, 2))}, r"got \(2, 256, 2, 2\)"),
        ({"features": features(shape=(1, 128, 2, 2))}, r"got \(1, 128, 2, 2\)"),
        ({"features": features(dtype=np.float16)}, "float16; pass what SamPredictor.get_image_embedding"),
        ({"image_hw": (0, 20)}, "must be positive"),
        ({"input_hw": (32, -1)}, "must be positive"),
        ({"input_hw": (32, 33)}, "input_hw at most 32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    parts = {"features": features(), "image_hw": (30, 20), "input_hw": (32, 21), "model_id": "abc"} | changes
    with pytest.raises(ValueError, match=message):
        Embedding(**parts)


def test_an_embedding_of_other_weights_is_refused_before_decoding(onnx_predictor, embedding):
    with pytest.raises(ValueError, match=r"made by encoder 'abc', the onnxruntime engine runs '[0-9a-f]{16}'; encode"):
        onnx_predictor.engine.check_made_here(embedding)
    with pytest.raises(ValueError, match="made by encoder 'abc'"):
        onnx_predictor.set_embedding(embedding)
