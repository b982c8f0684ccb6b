"""Bad input through the Python doors, where a whole call is at stake: nothing is changed, and no file appears."""

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import mobile_sam
from mobile_sam import SAM, SamPredictor, read_image
from mobile_sam.core.errors import ImageReadError, MissingDependencyError
from mobile_sam.core.images import write_image

BAD_PICTURES = ["missing", "folder", "empty", "text", "cut short", "bomb"]


def bad_picture(kind: str, folder: Path) -> Path:
    path = folder / "bad.png"
    if kind == "folder":
        path.mkdir()
        return path
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, format="PNG")
    whole = buffer.getvalue()
    bomb = b"BM" + bytes(12) + (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2
    contents = {
        "empty": b"",
        "text": b"no picture",
        "cut short": whole[: len(whole) // 2],
        "bomb": bomb + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    return path


WORDS = {
    "missing": r"no picture at .*bad\.png",
    "folder": r"bad\.png is a folder",
    "empty": r"bad\.png is empty \(0 bytes\)",
    "text": r"bad\.png is no picture in a format that Pillow knows",
    "cut short": r"bad\.png is damaged, cut short",
    "bomb": r"bad\.png (is too large|has 60000 x 60000 pixels, more than)",
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture_is_refused_by_name_and_the_one_that_is_set_stays(cat_predictor, cat_embedding, tmp_path, kind):
    with pytest.raises((ImageReadError, FileNotFoundError), match=WORDS[kind]):
        cat_predictor.set_image(bad_picture(kind, tmp_path))
    assert cat_predictor.embedding is cat_embedding


@pytest.mark.parametrize("kind", [kind for kind in BAD_PICTURES if kind != "folder"])
def test_the_one_call_interface_refuses_a_bad_picture_by_name(onnx_predictor, tmp_path, kind):
    model = SAM(onnx_predictor.engine)
    with pytest.raises((ImageReadError, FileNotFoundError), match=WORDS[kind]):
        model(bad_picture(kind, tmp_path), points=[10, 10])


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"labels": [1]}, "no prompt"),
        ({"bboxes": [1, 2, 3, 4], "labels": [1]}, "labels came without points"),
        ({"points": [[1, 2], [3, 4]], "labels": [1]}, "labels must be"),
        ({"points": [1, np.nan]}, "points must be finite"),
        ({"points": [1, 2, 3]}, r"points must .* got shape \(3,\)"),
        ({"bboxes": [3, 2, 1, 4]}, "swapped or equal corners"),
        ({"points": [[1, 2]], "bboxes": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "must describe the same objects"),
    ],
)
def test_bad_prompts_are_refused_before_a_picture_is_encoded(onnx_predictor, examples, monkeypatch, prompts, words):
    monkeypatch.setattr(onnx_predictor.engine, "encode", lambda images, **_: pytest.fail("the work was begun"))
    with pytest.raises(ValueError, match=words):
        SAM(onnx_predictor.engine)(examples / "chelsea.png", **prompts)


def test_the_picture_is_not_changed_by_what_is_asked_of_it(onnx_predictor, cat_embedding, examples, monkeypatch):
    monkeypatch.setattr(onnx_predictor.engine, "encode", lambda images, **_: [cat_embedding])
    image = read_image(examples / "chelsea.png")
    original = image.copy()
    image.flags.writeable = False
    (result,) = SAM(onnx_predictor.engine)(image, points=[200, 150], image_format="RGB")
    result.plot()
    assert_array_equal(image, original)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere/o.png", FileNotFoundError, "create it first"),
        ("o.xyz", ValueError, "names no known format"),
        ("folder.png", IsADirectoryError, "it is a folder"),
    ],
)
def test_results_that_cannot_be_saved_say_where_and_leave_nothing(cat_results, tmp_path, name, error, words):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(error, match=words) as caught:
        cat_results.save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]


def test_a_full_disk_leaves_the_old_picture_and_is_named(cat_results, tmp_path, monkeypatch):
    target = tmp_path / "o.png"
    target.write_bytes(b"old")

    def write_bytes(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match=r"o\.png") as caught:
        cat_results.save(target)
    assert caught.value.errno == errno.ENOSPC
    assert os.fspath(caught.value.filename) == str(target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_picture_longer_than_png_can_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"o\.png: PNG holds at most 1000000 pixels a side, .*; use \.tif"):
        write_image(tmp_path / "o.png", np.zeros((1, 1_000_001), np.bool_))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cat_results(onnx_predictor, cat_embedding, examples, monkeypatch):
    monkeypatch.setattr(onnx_predictor.engine, "encode", lambda images, **_: [cat_embedding])
    (result,) = SAM(onnx_predictor.engine)(examples / "chelsea.png", points=[200, 150])
    return result


@pytest.mark.parametrize(
    "ask",
    [
        lambda: SamPredictor(engine="torch"),
        lambda: SAM(engine="torch"),
        lambda: SAM(__file__),  # any file but a safetensors runs on torch
        lambda: SamPredictor(precision="fp16"),
    ],
)
def test_what_needs_torch_says_so_and_how_to_get_it(monkeypatch, ask):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mobile-sam\[torch\]'"):
        ask()


def test_without_torch_the_default_engine_is_no_worse(monkeypatch, cat_embedding, examples):
    monkeypatch.setitem(sys.modules, "torch", None)
    predictor = mobile_sam.SamPredictor()
    predictor.set_embedding(cat_embedding)
    masks, _, _ = predictor.predict([[200, 150]], [1], multimask_output=False)
    assert masks.shape == (1, 300, 451)
