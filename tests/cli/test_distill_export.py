"""`mobile-sam distill export`: a student's file becomes a folder that the other commands take."""

import json
import subprocess
import sys

import pytest
import torch

from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam
from mobile_sam.cli.distill_export import export
from mobile_sam.core.weights import read_metadata


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("students") / "student.safetensors"
    save_sam(build_sam_vit_t_1m(input_side=256), path, name="vit_t_1m", metadata={"teacher": "vit_h"})
    return path


def test_a_student_is_exported_and_segments_everything(checkpoint, tmp_path, capsys, cli, examples):
    folder = tmp_path / "student"
    export(str(checkpoint), folder)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["decoder.onnx", "encoder.onnx", "weights.safetensors"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"wrote {folder / name}" for name in files]
    assert read_metadata(folder / "weights.safetensors") == read_metadata(checkpoint)

    photo, found = examples / "chelsea.png", tmp_path / "found.json"
    ended = cli("everything", photo, "--model", folder, "--points-per-side", 2, "-o", found)
    assert (ended.exit_code, ended.err) == (0, "")
    assert json.loads(found.read_text())["info"]["model"]["checkpoint"] == "student"


def test_mistakes_are_told_before_the_libraries_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mobile_sam.export.model_folder", None)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint nowhere\.pt"):
        export("nowhere.pt", tmp_path / "out")


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_missing_library_is_named_with_what_to_install(checkpoint, tmp_path, name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; from pathlib import Path\n"
        "from mobile_sam.cli.distill_export import export\n"
        "export(sys.argv[1], Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, checkpoint, tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "MissingDependencyError: " in ended.stderr
    assert "pip install 'mobile-sam[export]'" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
