import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from mobile_sam.core import weights
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.weights import (
    BUNDLED,
    ENCODER_PREFIX,
    Declaration,
    bundled_weights_path,
    count_parameters,
    find_checkpoint,
    fingerprint_of_file,
    is_bundled_name,
    read_declaration,
    read_safetensors_header,
    sha256_of_file,
    verify_bundled_weights,
    weights_file,
)


@pytest.fixture
def copied_folder(tmp_path, monkeypatch):
    """A copy of the bundled weights that the package takes for the bundled folder."""
    (tmp_path / BUNDLED.file_name).write_bytes(bundled_weights_path().read_bytes())
    monkeypatch.setattr(weights, "bundled_folder", lambda: tmp_path)
    return tmp_path


def small_file(path, **tensors):
    save_file(tensors or {"a": np.arange(100, dtype=np.float32)}, path)
    return path


def with_header(path, header, num_data_bytes=8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(num_data_bytes))
    return path


def test_the_bundled_weights_are_the_released_ones():
    verify_bundled_weights()
    command = [
        sys.executable,
        "-c",
        "import hashlib,sys;print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())",
    ]
    found = subprocess.run(
        [*command, bundled_weights_path()], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == BUNDLED.file_sha256 == sha256_of_file(bundled_weights_path())


@pytest.mark.parametrize("place", [0, 20_000_000, -1])
def test_one_flipped_bit_is_found(copied_folder, place):
    path = copied_folder / BUNDLED.file_name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"weights are damaged: .* has sha256 [0-9a-f]{64}, expected 299ca84.*reinst"
    ):
        verify_bundled_weights()


def test_missing_weights_are_named(copied_folder):
    (copied_folder / BUNDLED.file_name).unlink()
    with pytest.raises(WeightsError, match=r"weights are missing: .*mobile_sam\.safetensors; reinstall with `pip"):
        verify_bundled_weights()


def test_a_file_and_the_module_it_was_loaded_into_have_one_fingerprint(onnx_predictor, torch_predictor):
    expected = fingerprint_of_file(bundled_weights_path(), ENCODER_PREFIX)
    assert torch_predictor.engine.model_id == onnx_predictor.engine.model_id == expected
    assert len(expected) == 16


def test_a_fingerprint_depends_on_names_shapes_and_first_values_but_not_on_order(tmp_path):
    a, b = np.arange(100, dtype=np.float32), np.ones((2, 3), np.float32)
    first = fingerprint_of_file(small_file(tmp_path / "1", a=a, b=b))
    assert fingerprint_of_file(small_file(tmp_path / "2", b=b, a=a)) == first
    assert fingerprint_of_file(small_file(tmp_path / "3", a=a, b=b, steps=np.array(7))) == first  # integers: no weights
    others = [
        small_file(tmp_path / "4", a=a, c=b),
        small_file(tmp_path / "5", a=a, b=b.T.copy()),
        small_file(tmp_path / "6", a=a + 1, b=b),
    ]
    assert len({first, *map(fingerprint_of_file, others)}) == 4


def test_a_header_tells_where_the_values_are(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = small_file(tmp_path / "small.safetensors", a=np.zeros(5, np.float32), b=values)
    header, data_start = read_safetensors_header(path)
    start, end = header["b"]["data_offsets"]
    assert header["b"]["shape"] == [2, 3]
    assert path.read_bytes()[data_start + start : data_start + end] == values.tobytes()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("content", [b"", b"1234567", b"<!DOCTYPE html>", bytes(8), bytes(99), b"\xff" * 99])
def test_garbage_is_no_safetensors_file(tmp_path, content):
    path = tmp_path / "garbage"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"garbage is not a safetensors file: its header does not fit"):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "its header is not JSON"),
        (b'{"a": \xff}', "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        ([1, 2], "not a table of tensors"),
        ({"a": 3}, "a has no dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32"}}, "a has no dtype"),
        ({"a": ENTRY | {"data_offsets": [0]}}, "a has no dtype"),
        ({"a": ENTRY | {"data_offsets": [8, 0]}}, "a has no dtype"),
        ({"a": ENTRY | {"data_offsets": [0, "8"]}}, "a has no dtype"),
        ({"a": ENTRY | {"shape": [-2]}}, "a has no dtype"),
        ({"a": ENTRY | {"shape": 2}}, "a has no dtype"),
        ({"a": ENTRY | {"shape": [3]}}, "a has no dtype, shape and data_offsets that agree"),
        ({"a": ENTRY | {"shape": [3], "data_offsets": [0, 12]}}, "is truncated: it ends before the values of a"),
    ],
)
@pytest.mark.parametrize("read", [read_safetensors_header, fingerprint_of_file, count_parameters])
def test_a_damaged_header_is_a_weights_error(tmp_path, header, message, read):
    with pytest.raises(WeightsError, match=message):
        read(with_header(tmp_path / "damaged", header))


@pytest.mark.parametrize("kept_bytes", [5, 30, 90, 100, 300])
def test_a_file_cut_anywhere_is_a_weights_error(tmp_path, kept_bytes):
    path = small_file(tmp_path / "cut.safetensors")
    assert len(path.read_bytes()) > 400
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(WeightsError, match=r"cut\.safetensors is (not a safetensors file|truncated)"):
        fingerprint_of_file(path)


def test_the_bundled_model_has_the_published_numbers_of_parameters():
    expected = {"image_encoder": 5_743_892, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}
    assert count_parameters(bundled_weights_path()) == expected


def test_parameters_are_counted_as_torch_counts_them(torch_predictor):
    parts = torch_predictor.model.named_children()
    counted = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts}
    assert count_parameters(bundled_weights_path()) == counted


@pytest.mark.parametrize(
    ("name", "is_bundled"),
    [
        ("mobile_sam", True),
        ("mobile_sam.pt", True),
        ("./mobile_sam.pt", False),
        ("weights/mobile_sam.pt", False),
        ("mobile_sam.pth", False),
        ("Mobile_SAM", False),
        ("", False),
    ],
)
def test_two_names_mean_the_bundled_weights(tmp_path, monkeypatch, name, is_bundled):
    monkeypatch.chdir(tmp_path)
    assert is_bundled_name(name) is is_bundled


def test_a_file_of_that_name_goes_first_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobile_sam.pt").write_bytes(b"")
    (tmp_path / "mobile_sam").mkdir()
    assert not is_bundled_name("mobile_sam.pt")
    assert is_bundled_name("mobile_sam")
    (tmp_path / "mobile_sam" / "weights.safetensors").touch()
    assert not is_bundled_name("mobile_sam")  # a model folder is a model


@pytest.mark.parametrize("name", [None, "mobile_sam", "mobile_sam.pt"])
def test_the_bundled_weights_need_not_be_found(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(name) is None


def test_a_checkpoint_is_a_file_or_a_folder_with_weights_or_an_export_in_it(tmp_path):
    folder, file = tmp_path / "student", tmp_path / "student.pt"
    folder.mkdir()
    file.touch()
    assert (find_checkpoint(file), weights_file(file)) == (file, file)
    missing = r"no checkpoint in .*student: it has neither weights\.safetensors nor export\.json; name a file"
    with pytest.raises(FileNotFoundError, match=missing):
        find_checkpoint(folder)
    (folder / "export.json").touch()
    assert (find_checkpoint(folder), weights_file(folder)) == (folder, folder / "export.json")
    (folder / "weights.safetensors").touch()
    assert (find_checkpoint(str(folder)), weights_file(folder)) == (folder, folder / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*gone\.pt; the bundled weights are called"):
        find_checkpoint(tmp_path / "gone.pt")


def test_a_file_tells_its_model_and_one_that_does_not_is_for_1024(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {}, {"format": "pt"}):
        save_file({"a": np.zeros(2, np.float32)}, path, metadata)
        assert read_declaration(path) == Declaration(None, 1024)
    declared = Declaration("vit_t_1m", 512)
    save_file({"a": np.zeros(2, np.float32)}, path, declared.to_metadata())
    assert read_declaration(path) == declared
    assert read_declaration(bundled_weights_path()) == Declaration()


@pytest.mark.parametrize("side", ["", "-16", "5e2", "512.0", "\u0661"])
def test_an_input_side_that_is_no_number_of_pixels_is_refused(tmp_path, side):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path, {"input_side": side})
    with pytest.raises(WeightsError, match=f"a.safetensors says that its input_side is '{side}'; expected a number"):
        read_declaration(path)
