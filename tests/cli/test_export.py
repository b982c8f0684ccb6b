"""`mobile-sam export`: what its options mean, what it prints, and that no mistake ends in a traceback."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobile_sam.core.manifest import ExportManifest
from mobile_sam.export import exporter
from mobile_sam.export.parity import Agreement, Parity, ParityError
from mobile_sam.export.parity_report import ParityReport
from mobile_sam.export.target import Bound, ExportOptions
from mobile_sam.export.targets import target_names

SEEN = Agreement(1e-6, 0.99997, 0.9987, (1.0, 1.0), None, 0.0, 0.0, 1.0, 64)
TIMES = {name: {"load": 1.0, "encode": 0.5, "click": 0.03} for name in ("reference", "default", "export")}
MEASURED = Parity({"default": SEEN, "export": SEEN}, None, TIMES, dict.fromkeys(TIMES, 300.0), 4, 0, False, {})


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks to be exported; nothing is."""
    seen = SimpleNamespace(fails=None)

    def take(model, target, folder, options, **others):
        vars(seen).update(model=model, target=target, folder=folder, options=options, **others)
        if seen.fails is not None:
            raise seen.fails
        (tmp_path / "encoder.onnx").write_bytes(bytes(1_500_000))
        files = {"encoder.onnx": "0123456789abcdef" * 4}
        manifest = ExportManifest(target, None, "fp32", "id", "vit_t", files=files, notes=("Keep dry.",))
        report = ParityReport(manifest, Bound(1e-4, 0.9995, 0.98), MEASURED, None, {"encoder.onnx": 1_500_000}, {})
        return exporter.ExportResult(tmp_path, manifest, report)

    monkeypatch.setattr(exporter, "export", take)
    return seen


def test_without_options_the_bundled_model_is_exported_as_the_target_has_it(cli, asked):
    ended = cli("export", "--to", "onnx")
    assert ended.exit_code == 0
    assert (asked.model, asked.target, asked.folder, asked.options) == ("mobile_sam", "onnx", None, ExportOptions())
    assert (asked.input_side, asked.pictures, asked.checks_bound, asked.num_threads) == (None, (), True, 0)


def test_every_option_reaches_the_export(cli, asked, tmp_path):
    ended = cli(
        "export", "--to", "sam-onnx", "--checkpoint", "mine.pt", "--precision", "int8", "-o", tmp_path / "new",
        "--input-size", "768x1024", "--preprocess", "--joint", "--num-prompts", 4, "--num-points", 6,
        "--calibration", "a", "--calibration", "b", "--pictures", "c", "--return-single-mask", "--use-stability-score",
        "--return-extra-metrics", "--gelu-approximate", "--opset", 17, "--threads", 2, "--below-bound",
    )  # fmt: skip
    assert ended.exit_code == 0
    assert asked.options == ExportOptions(
        precision="int8", input_hw=(768, 1024), preprocess=True, joint=True, num_prompts=4, num_points=6,
        calibration=(Path("a"), Path("b")), return_single_mask=True, use_stability_score=True,
        return_extra_metrics=True, gelu_approximate=True, opset=17,
    )  # fmt: skip
    assert (asked.model, asked.folder, asked.input_side) == ("mine.pt", tmp_path / "new", 1024)
    assert (asked.pictures, asked.checks_bound, asked.num_threads) == ((Path("c"),), False, 2)


@pytest.mark.parametrize(
    ("text", "side", "input_hw"), [("512", 512, None), ("640x640", 640, None), ("1024x768", 1024, (1024, 768))]
)
def test_an_input_size_is_a_side_or_height_and_width(cli, asked, text, side, input_hw):
    assert cli("export", "--to", "onnx", "--input-size", text).exit_code == 0
    assert (asked.input_side, asked.options.input_hw) == (side, input_hw)


def test_the_table_the_notes_and_the_files_are_printed(cli, asked, tmp_path):
    lines = cli("export", "--to", "onnx").out.splitlines()
    assert lines[0] == "onnx fp32, vit_t: 4 pictures, 64 prompts against PyTorch fp32 on the CPU"
    assert any(line.startswith("mask IoU, worst") and "0.9987" in line for line in lines)
    assert lines[-4:] == [
        "note: Keep dry.",
        f"wrote {tmp_path / 'encoder.onnx'} (1.5 MB, sha256 0123456789abcdef)",
        f"wrote {tmp_path / 'export.json'}",
        f"wrote {tmp_path / 'parity.json'}",
    ]


def test_an_export_below_the_bound_has_an_exit_code_of_its_own(cli, asked):
    asked.fails = ParityError("BELOW THE BOUND: mean mask IoU 0.5")
    ended = cli("export", "--to", "onnx")
    assert (ended.exit_code, ended.out) == (3, "")
    assert ended.err == "mobile-sam: error: BELOW THE BOUND: mean mask IoU 0.5\n"


@pytest.mark.parametrize("arguments", [("--list",), ("--to", "list")])
def test_the_targets_are_listed_with_what_they_need(cli, arguments):
    ended = cli("export", *arguments)
    assert ended.exit_code == 0
    first_words = [line.split()[0] for line in ended.out.splitlines() if not line.startswith(" ")]
    assert first_words == target_names()
    assert "pip install 'mobile-sam[export]'" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"name what to export to with --to; the targets are .*onnx"),
        (("--to", "toaster"), "unknown target 'toaster'; expected one of"),
        (("--to", "onnx", "--input-size", "big"), "--input-size must be a side as 1024 or height x width"),
        (
            ("--to", "onnx", "--input-size", "1000"),
            "the input size must be a multiple of 16 px, got 1000",
        ),
        (("--to", "onnx", "--input-size", "1000x1024"), "the input size must be multiples of 16 px, got 1000x1024"),
        (("--to", "onnx", "--precision", "fp64"), "target onnx has no precision 'fp64'; it has fp32"),
        (("--to", "onnx", "--return-extra-metrics"), "target onnx does not take --return-extra-metrics; of the"),
        (("--to", "onnx", "--checkpoint", "nowhere.pt"), "there is no checkpoint nowhere.pt"),
        (("--to", "onnx", "--pictures", "nowhere"), "there is no picture or folder of pictures at nowhere"),
        (("--to", "onnx", "--precision", "int8", "--calibration", "empty"), "the folder empty has no pictures"),
        (("--to", "onnx", "-o", "empty"), "empty exists; name a new folder with -o"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ended = cli("export", *arguments)
    assert (ended.exit_code, ended.out) == (2, "")
    *progress, line = ended.err.splitlines()
    assert re.search(message, line)
    assert line.startswith("mobile-sam: error: ")
    assert progress == []
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
