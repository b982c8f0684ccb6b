"""`mobile-sam info`: what is installed and what it can do."""

import hashlib
import importlib.metadata
import math
import platform
import re
from importlib.util import find_spec

import onnxruntime
import pytest
from safetensors import safe_open

import mobile_sam.core.weights
import mobile_sam.engines
from mobile_sam import __version__
from mobile_sam.core.weights import bundled_weights_path


@pytest.fixture
def lines(cli):
    ended = cli("info")
    assert (ended.exit_code, ended.err) == (0, "")
    return ended.out.splitlines()


def line_about(word, lines):
    (line,) = [line for line in lines if line.split()[:1] == [word]]
    return line


def test_info_begins_with_the_version(lines):
    assert lines[0].startswith(f"mobile-sam {__version__}, Python 3.")


def test_the_installed_engines_are_listed_with_their_versions(lines):
    assert onnxruntime.__version__ in line_about("onnxruntime", lines)
    assert "cpu" in line_about("onnxruntime", lines)
    if find_spec("openvino"):
        assert f"{importlib.metadata.version('openvino')}, devices: cpu" in line_about("openvino", lines)
    if find_spec("torch"):
        assert importlib.metadata.version("torch") in line_about("torch", lines)


def test_what_auto_chooses_is_told_and_why(cli, monkeypatch):
    monkeypatch.setattr(mobile_sam.engines, "_has_cuda", lambda: False)
    for cpu, packages, expected in (
        ("x86_64", {"onnxruntime", "openvino"}, "openvino: exact, and the quickest on x86 CPUs"),
        ("aarch64", {"onnxruntime", "openvino"}, "onnxruntime: exact, and always installed"),
        ("x86_64", {"onnxruntime"}, "onnxruntime: exact, and always installed"),
    ):
        monkeypatch.setattr(platform, "machine", lambda cpu=cpu: cpu)
        monkeypatch.setattr(mobile_sam.engines, "find_spec", lambda name, packages=packages: name in packages or None)
        assert line_about("auto", cli("info").out.splitlines()).split(maxsplit=1)[1] == expected


def test_an_engine_that_is_missing_says_what_to_install(cli, monkeypatch):
    monkeypatch.setattr(mobile_sam.engines, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    line = line_about("torch", cli("info").out.splitlines())
    assert "torch is not installed" in line
    assert "pip install 'mobile-sam[torch]'" in line


def test_an_engine_that_is_installed_but_broken_says_so_and_the_rest_follows(cli, monkeypatch):
    def describe_engine(name):
        raise ImportError("DLL load failed")

    monkeypatch.setattr(mobile_sam.engines, "describe_engine", describe_engine)
    lines = cli("info").out.splitlines()
    assert "is installed but does not work: DLL load failed" in line_about("onnxruntime", lines)
    assert "parameters" in lines


def test_the_weights_are_named_with_the_hash_of_their_file(lines):
    digest = hashlib.sha256(bundled_weights_path().read_bytes()).hexdigest()
    assert f"  sha256 {digest} (verified)" in lines
    assert any(str(bundled_weights_path()) in line for line in lines)


def test_parameters_are_counted_without_buffers(lines):
    is_buffer = re.compile("running_|num_batches_tracked|gaussian")
    expected = {"all": 0}
    with safe_open(bundled_weights_path(), "numpy") as file:
        for key in file.keys():  # noqa: SIM118 - safe_open is no dict
            if not is_buffer.search(key):
                part, count = key.split(".")[0], math.prod(file.get_slice(key).get_shape())
                expected[part] = expected.get(part, 0) + count
                expected["all"] += count
    counted = {part: int(line_about(part, lines).split()[1].replace(",", "")) for part in expected}
    assert counted == expected


def test_corrupted_weights_are_reported_and_never_called_verified(cli, tmp_path, monkeypatch):
    (tmp_path / bundled_weights_path().name).write_bytes(b"damaged")
    monkeypatch.setattr(mobile_sam.core.weights, "bundled_folder", lambda: tmp_path)
    ended = cli("info")
    assert ended.exit_code == 2
    assert "sha256" in ended.err
    assert "verified" not in ended.out
