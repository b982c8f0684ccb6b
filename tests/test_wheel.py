"""What users download: one wheel with the weights inside, and small enough."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT_BYTES = 45_000_000  # without the page, which tests/web weighs


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("mobile_sam-*.whl")
    return path


def test_wheel_stays_under_45_megabytes(wheel):
    page = [info for info in zipfile.ZipFile(wheel).infolist() if info.filename.startswith("mobile_sam/serve/page/")]
    assert wheel.stat().st_size - sum(info.compress_size for info in page) < LIMIT_BYTES


def test_wheel_holds_weights_graphs_types_and_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("mobile_sam/") for name in names if name.startswith("mobile_sam/")}
    assert {"weights/mobile_sam.safetensors", "weights/encoder.onnx", "weights/decoder.onnx", "py.typed"} <= inside
    assert "weights/encoder_any.onnx" in inside
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    weights = [name for name in names if name.endswith((".safetensors", ".pt", ".pth", ".npz", ".bin"))]
    assert weights == ["mobile_sam/weights/mobile_sam.safetensors"]


def test_files_of_the_wheel_are_readable_by_everyone(wheel):
    modes = {info.filename: info.external_attr >> 16 for info in zipfile.ZipFile(wheel).infolist()}
    assert [name for name, mode in modes.items() if mode and not mode & 0o004] == []


def test_plain_installation_does_not_bring_torch(wheel):
    text = zipfile.ZipFile(wheel).read(next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA")))
    required = [line for line in text.decode().splitlines() if line.startswith("Requires-Dist:")]
    plain = [line for line in required if "extra ==" not in line]
    assert plain
    assert not any("torch" in line for line in plain)
    assert any("torch" in line and "extra == 'torch'" in line for line in required)
