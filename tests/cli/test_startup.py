"""What a command imports. Nothing here measures time: that is what benchmarks are for."""

import json
import subprocess
import sys

import pytest

from mobile_sam.engines import choose_engine

RUN = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
if sys.argv[1] == "import":
    import mobile_sam
else:
    from mobile_sam.cli.main import run
    run()
"""
TORCH_IS_MISSING = 'import sys; sys.modules["torch"] = None  # "import torch" raises now\n'


def run_python(code, *arguments):
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended


def modules_after(*arguments):
    return set(json.loads(run_python(RUN, *arguments).stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [("import",), ("--help",), ("segment", "--help"), ("everything", "--help"), ("--version",)]
)
def test_help_and_import_load_no_heavy_library(arguments):
    heavy = {"torch", "numpy", "cv2", "onnxruntime", "openvino", "PIL", "pycocotools", "safetensors"}
    assert modules_after(*arguments) & heavy == set()


def test_info_does_not_import_torch():
    assert "torch" not in modules_after("info")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_segment_imports_the_engine_that_runs_and_no_other(examples, tmp_path, engine):
    asked = ("segment", str(examples / "chelsea.png"), "--point", "200,150", "-o", str(tmp_path / "o.png"))
    modules = modules_after(*asked, "--engine", engine)
    assert modules & {"torch", "safetensors", "mobile_sam.build_sam", "mobile_sam.modeling"} == set()
    chosen = choose_engine()[0] if engine == "auto" else engine
    assert modules & {"onnxruntime", "openvino"} == {chosen}


@pytest.mark.parametrize("style", ["overlay", "cutout"])
def test_segment_works_where_torch_is_not_installed(examples, tmp_path, style):
    run_python(
        TORCH_IS_MISSING + RUN, "segment", str(examples / "chelsea.png"), "--point", "200,150", "--multimask",
        "--style", style, "-o", str(tmp_path / "o.png"), "--json", str(tmp_path / "o.json"),
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o-1.png", "o-2.png", "o-3.png", "o.json"]
