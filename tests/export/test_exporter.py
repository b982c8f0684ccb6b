"""Export as a whole: what is refused before the work, what is written, and that nothing half-written stays."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mobile_sam.build_sam import build_sam_vit_t_1m, sam_from_checkpoint
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.images import read_image
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.engines.exported import ExportedEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export import exporter
from mobile_sam.export.exporter import ExportOptions, export, resolve_model
from mobile_sam.export.graphs import GraphSpec, trace
from mobile_sam.export.model_folder import export_model
from mobile_sam.export.modules import DECODER_INPUTS, DECODER_OUTPUTS, DecoderGraph, EncoderGraph, JointGraph
from mobile_sam.export.parity import Agreement, Parity, ParityError
from mobile_sam.export.parity_reference import PartEngine
from mobile_sam.export.pictures import default_pictures
from mobile_sam.export.target import Bound, TargetSpec, Written

PICTURE = default_pictures()[1]
BOUND = Bound(embedding_error=1e-3, mask_iou_mean=0.99, mask_iou_min=0.8)
SPEC = TargetSpec(
    name="made-up",
    summary="of the tests",
    precisions=("fp32", "int8"),
    extra="export-made-up",
    packages=("onnxruntime",),
    bounds={"fp32": BOUND, "int8": BOUND},
    options=frozenset({"input_hw", "joint", "num_prompts"}),
)
SEEN = Agreement(1e-6, 1.0, 1.0, (1.0, 1.0), None, 0.0, 0.0, 1.0, 16)
TIMES = {name: {"load": 1.0, "encode": 1.0, "click": 1.0} for name in ("reference", "default", "export")}
MEASURED = Parity({"default": SEEN, "export": SEEN}, None, TIMES, dict.fromkeys(TIMES, 1.0), 1, 0, False, {})


class MadeUpTarget:
    """ONNX files of the three graphs, run by onnxruntime."""

    def __init__(self, spec=SPEC):
        self.of_spec, self.written_to = spec, []

    def spec(self):
        return self.of_spec

    def write(self, sam, options, folder):
        self.written_to.append(folder)
        encoder, decoder = EncoderGraph(sam, options.input_hw), DecoderGraph(sam)
        points = {"point_coords": {0: "P", 1: "N"}, "point_labels": {0: "P", 1: "N"}}
        modules = {"encoder": (encoder, ("image",), ("features",), {})}
        modules["decoder"] = (decoder, DECODER_INPUTS, DECODER_OUTPUTS, points)
        if options.joint:
            modules["joint"] = (JointGraph(encoder, decoder), ("image", *DECODER_INPUTS[1:3]), DECODER_OUTPUTS, points)
        for role, (module, inputs, outputs, axes) in modules.items():
            graph = trace(GraphSpec(f"{role}.onnx", module.eval(), module.example_inputs(), inputs, outputs, axes))
            (folder / f"{role}.onnx").write_bytes(graph.SerializeToString())
        graphs = {role: f"{role}.onnx" for role in modules}
        return Written(graphs, "onnxruntime", notes=("Keep dry.",), facts={"kept": ["neck"]})


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=256)


@pytest.fixture(scope="module")
def student_folder(student, tmp_path_factory):
    return export_model(student, tmp_path_factory.mktemp("students") / "student")


@pytest.fixture
def target(monkeypatch):
    """A target called "made-up"; parity is not measured, but found to be good."""
    made = MadeUpTarget()
    monkeypatch.setattr(exporter, "get_target", lambda name: made)
    monkeypatch.setattr(exporter, "measure_parity", lambda *told: MEASURED)
    return made


@pytest.fixture
def refused(target, student, tmp_path):
    """Ask for something that must be refused before anything is written, and leave nothing; return the message."""

    def ask(kind=ValueError, model=student, options=None, **others):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(kind) as raised:
            export(model, "made-up", others.pop("folder", tmp_path / "out"), options or ExportOptions(), **others)
        assert target.written_to == []
        assert sorted(tmp_path.rglob("*")) == before
        return str(raised.value)

    return ask


# What is refused before the work


def test_an_unknown_target_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"unknown target 'toaster'; expected one of .*onnx"):
        export("mobile_sam", "toaster", tmp_path / "out", ExportOptions())


def test_a_precision_that_the_target_has_not_is_refused(refused):
    message = refused(options=ExportOptions(precision="bf16"))
    assert message == "target made-up has no precision 'bf16'; it has fp32, int8"


def test_options_that_the_target_does_not_take_are_refused(refused):
    message = refused(options=ExportOptions(preprocess=True, opset=17, joint=True))
    assert message == (
        "target made-up does not take --opset, --preprocess; of the options beside --precision it takes: "
        "--input-size, --joint, --num-prompts"
    )


@pytest.mark.parametrize("input_hw", [(128, 128), (512, 256), (1024, 1024)])
def test_an_input_size_that_does_not_fit_the_model_is_refused(refused, input_hw):
    message = refused(options=ExportOptions(input_hw=input_hw))
    assert (
        f"{input_hw[0]}x{input_hw[1]} (height x width) does not fit the model, whose longer side is 256 px" in message
    )
    assert "multiples of 16 px" in message


def test_an_input_side_is_refused_where_the_network_has_but_one(refused, monkeypatch):
    monkeypatch.setattr(sys.modules["mobile_sam.build_sam"], "identify_checkpoint", lambda state_dict: "vit_b")
    message = refused(input_side=512)
    assert "the input size of vit_b is 256 px and cannot be changed to 512 px: only TinyViT models can" in message


@pytest.mark.parametrize("is_file", [True, False])
def test_an_output_that_exists_is_refused(refused, tmp_path, is_file):
    there = tmp_path / "there"
    if is_file:
        there.write_text("mine")
    else:
        there.mkdir()
    assert "there exists; name a new folder" in refused(folder=there)


def test_the_folder_is_named_by_target_and_precision_unless_told(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported" / "made-up-int8").mkdir(parents=True)
    assert "exists" in refused(folder=None, options=ExportOptions(precision="int8"))


def test_missing_packages_are_named_with_the_extra(refused, target):
    target.of_spec = replace(SPEC, packages=("onnxruntime", "no_such_runtime"))
    message = refused(MissingDependencyError)
    assert "needs no_such_runtime, not installed here; run: pip install 'mobile-sam[export-made-up]'" in message


@pytest.mark.parametrize("what", ["pictures", "calibration"])
def test_folders_without_pictures_are_refused(refused, target, tmp_path, what):
    target.of_spec = replace(SPEC, options=frozenset({"calibration"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    told = {"pictures": [empty]} if what == "pictures" else {"options": ExportOptions(calibration=(empty,))}
    assert "empty has no pictures" in refused(**told)


def test_a_picture_that_is_damaged_is_refused(refused, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert "broken.png" in refused(pictures=[broken])


def test_a_checkpoint_that_is_not_there_or_of_no_known_model_is_refused(refused, save):
    assert "there is no checkpoint nowhere.pt" in refused(FileNotFoundError, model="nowhere.pt")
    other = save({"weight": torch.zeros(2)}, "other.safetensors")
    assert "holds none of the models known here" in refused(model=other)


def test_mistakes_are_told_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mobile_sam.export.exporter import ExportOptions, export\n"
        "export('nowhere.pt', 'onnx', sys.argv[1], ExportOptions())"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines()[-1].startswith("FileNotFoundError: there is no checkpoint nowhere.pt")


# What is written


def test_an_export_below_the_bound_leaves_nothing(target, student_folder, tmp_path, monkeypatch):
    poor = replace(MEASURED, agreements={**MEASURED.agreements, "export": replace(SEEN, mask_iou_mean=0.5)})
    monkeypatch.setattr(exporter, "measure_parity", lambda *told: poor)
    with pytest.raises(ParityError) as raised:
        export(student_folder, "made-up", tmp_path / "out", ExportOptions())
    assert "BELOW THE BOUND: mean mask IoU 0.5, at least 0.99 was promised" in str(raised.value)
    assert "how fast" in str(raised.value)
    assert list(tmp_path.iterdir()) == []

    result = export(student_folder, "made-up", tmp_path / "out", ExportOptions(), checks_bound=False)
    told = json.loads((result.folder / "parity.json").read_text())
    assert told["within_bound"] is False
    assert told["missed"] == ["mean mask IoU 0.5, at least 0.99 was promised"]


def test_an_interruption_leaves_nothing(target, student_folder, tmp_path, monkeypatch):
    def interrupt(*told):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "measure_parity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(student_folder, "made-up", tmp_path / "out", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_run_here_is_written_and_says_so(target, student_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "measure_parity", lambda *told: pytest.fail("must not be run"))
    target.of_spec = replace(SPEC, not_run_here="it needs macOS")
    export(student_folder, "made-up", tmp_path / "out", ExportOptions())
    told = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert (told["status"], told["why_not_run"], told["within_bound"]) == ("not run here", "it needs macOS", None)
    assert told["facts"] == {"kept": ["neck"]}


def test_the_manifest_says_what_was_exported(target, student, student_folder, tmp_path):
    result = export(student_folder, "made-up", tmp_path / "out", ExportOptions(input_hw=(256, 256)))
    manifest = ExportManifest.read(tmp_path / "out")
    assert manifest == result.manifest
    assert (manifest.target, manifest.runtime, manifest.precision) == ("made-up", "onnxruntime", "fp32")
    assert (manifest.architecture, manifest.input_side, manifest.input_hw) == ("vit_t_1m", 256, (256, 256))
    assert manifest.model_id == TorchEngine(student).model_id
    assert sorted(manifest.files) == ["decoder.onnx", "encoder.onnx"]
    manifest.check_files(tmp_path / "out")
    assert (
        manifest.versions["torch"] == torch.__version__.split("+")[0] or manifest.versions["torch"] == torch.__version__
    )
    assert {"mobile-sam", "onnxruntime"} <= set(manifest.versions)
    assert manifest.notes == ("Keep dry.",)


def test_a_tiny_vit_is_built_for_another_input_side_with_the_same_weights(student, tmp_path):
    source = resolve_model(student, 320, None, tmp_path)
    assert (source.name, source.sam.image_encoder.img_size) == ("vit_t_1m", 320)
    for key, value in student.state_dict().items():
        assert torch.equal(source.sam.state_dict()[key], value)
    assert student.image_encoder.img_size == 256
    assert sam_from_checkpoint(source.weights).image_encoder.img_size == 320  # for the default engine


def test_the_bundled_model_needs_no_folder_of_its_own(tmp_path):
    source = resolve_model("mobile_sam", None, None, tmp_path)
    assert (source.name, source.folder, source.weights) == ("vit_t", None, None)
    assert list(tmp_path.iterdir()) == []


# As a whole, in processes


@pytest.fixture(scope="module")
def whole(student, tmp_path_factory):
    """A part of the square, with a joint graph: its folder and its report."""
    folder = tmp_path_factory.mktemp("exports") / "whole"
    options = ExportOptions(input_hw=(176, 256), joint=True)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "get_target", lambda name: MadeUpTarget())
        told = {"pictures": [PICTURE], "num_threads": 1, "on_progress": lines.append}
        export(student, "made-up", folder, options, **told)
    return SimpleNamespace(folder=folder, told=json.loads((folder / "parity.json").read_text()), lines=lines)


def test_files_are_as_near_to_pytorch_as_rounding(whole):
    agreement = whole.told["agreements"]["export"]
    assert agreement["embedding_error"] < 1e-4
    assert agreement["mask_iou_mean"] > 0.99
    assert agreement["same_choice"] > 0.9
    assert whole.told["joint"]["mask_iou_mean"] > 0.99
    assert whole.told["within_bound"] is True


def test_the_default_engine_shows_what_leaving_out_a_part_costs(whole):
    assert whole.told["agreements"]["default"]["embedding_error"] > 1e-3  # it sees the whole square


def test_time_and_memory_are_those_of_each_variant(whole):
    seconds, memory = whole.told["seconds"], whole.told["peak_mb"]
    assert all(0 < seconds[name][stage] < 60 for name in seconds for stage in ("load", "encode", "click"))
    assert seconds["export"]["joint"] > seconds["export"]["click"]
    if memory["export"] is not None:
        assert memory["reference"] > memory["export"] + 50  # PyTorch is in it, and in no other
        assert memory["reference"] > memory["default"] + 50


def test_what_is_being_done_is_told_in_short_lines(whole):
    assert whole.lines[:2] == ["reading the model", "writing made-up fp32"]
    assert max(map(len, whole.lines)) < 80


def test_the_folder_runs_as_an_engine_again(whole, student):
    image = read_image(PICTURE)
    (found,) = ExportedEngine(whole.folder).encode([image])
    (expected,) = PartEngine(student, (176, 256)).encode([image])
    assert found.model_id == expected.model_id
    assert np.abs(found.features - expected.features).max() < 1e-4


def test_the_bundled_model_as_onnx_is_as_near_as_promised(tmp_path):
    result = export("mobile_sam", "onnx", tmp_path / "out", ExportOptions(), pictures=[PICTURE], num_threads=1)
    assert result.report.within_bound is True
    agreement = result.report.parity.agreements["export"]
    assert agreement.embedding_error < 1e-4
    assert agreement.mask_iou_min > 0.98
    assert agreement.same_choice == 1
