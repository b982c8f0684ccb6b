"""Which engine runs a model: as named, as an exported folder says, or else the quickest exact one, and why."""

import platform
from pathlib import Path

import pytest

import mobile_sam.engines
import mobile_sam.engines.exported
import mobile_sam.engines.openvino
import mobile_sam.engines.ort
import mobile_sam.engines.pytorch
from mobile_sam.core.errors import MissingDependencyError, WeightsError
from mobile_sam.core.manifest import MODEL_FOLDER, OPENVINO_ENGINE, ExportManifest
from mobile_sam.engines import ENGINES, choose_engine, describe_engine, make_engine, why_unavailable
from mobile_sam.modeling import Sam

MODULE = object.__new__(Sam)


class Recorder:
    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options


class Torch(Recorder):
    pass


class Ort(Recorder):
    pass


class OpenVino(Recorder):
    pass


class Exported(Recorder):
    pass


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """An x86 CPU, no GPU, with the packages named: (packages, machine, has_cuda)."""

    def of(packages=("onnxruntime", "openvino", "torch"), cpu="x86_64", has_cuda=False):
        monkeypatch.setattr(mobile_sam.engines, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(platform, "machine", lambda: cpu)
        monkeypatch.setattr(mobile_sam.engines, "_has_cuda", lambda: has_cuda)

    of()
    return of


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Engines that record what they are made of, in a folder that has a model folder and exports of three kinds."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name, runtime in (
        ("ir", OPENVINO_ENGINE),
        ("fixed", "ncnn"),
        ("sized", "openvino"),
        ("plain", MODEL_FOLDER),
        ("phone", None),
    ):
        Path(name).mkdir()
        ExportManifest(name, runtime, "int8" if name == "ir" else "fp32", "id", "vit_t").write(Path(name))
    monkeypatch.setattr(mobile_sam.engines.pytorch, "TorchEngine", Torch)
    monkeypatch.setattr(mobile_sam.engines.ort, "OrtEngine", Ort)
    monkeypatch.setattr(mobile_sam.engines.openvino, "OpenVinoEngine", OpenVino)
    monkeypatch.setattr(mobile_sam.engines.exported, "ExportedEngine", Exported)


OPTIONS = {
    Torch: {"device": None, "precision": "fp32"},
    Ort: {"provider": "cpu", "num_threads": 0},
    OpenVino: {"device": "cpu", "precision": None, "num_threads": 0, "hint": "latency"},
    Exported: {"num_threads": 0},
}


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "model", "made_with"),
    [
        ((), {}, OpenVino, None, {}),
        ((), {"precision": "fp32"}, OpenVino, None, {"precision": "fp32"}),
        (("auto", "mobile_sam.pt"), {"num_threads": 3}, OpenVino, None, {"num_threads": 3}),
        (("auto", "tuned.safetensors"), {"hint": "throughput"}, OpenVino, "tuned.safetensors", {"hint": "throughput"}),
        (("auto", "tuned.pt"), {}, Torch, "tuned.pt", {}),
        (("auto", MODULE), {}, Torch, MODULE, {}),
        ((), {"precision": "bf16"}, OpenVino, None, {"precision": "bf16"}),
        (("auto", "tuned.safetensors"), {"precision": "fp16"}, Torch, "tuned.safetensors", {"precision": "fp16"}),
        (("auto", "folder"), {}, OpenVino, "folder", {}),
        (("auto", "folder"), {"precision": "bf16"}, OpenVino, "folder", {"precision": "bf16"}),
        (("torch", "folder"), {}, Torch, "folder", {}),
        (("torch",), {"device": "cpu"}, Torch, None, {"device": "cpu"}),
        (("torch",), {"precision": "bf16"}, Torch, None, {"precision": "bf16"}),
        (("onnxruntime", "folder"), {}, Ort, "folder", {}),
        (
            ("onnxruntime", "mobile_sam"), {"num_threads": 2, "device": "cuda"},
            Ort, None, {"num_threads": 2, "provider": "cuda"},
        ),
        (("openvino",), {"device": "gpu"}, OpenVino, None, {"device": "gpu"}),
        (("auto", "ir"), {}, OpenVino, "ir", {}),
        (("openvino", Path("ir")), {"precision": "int8"}, OpenVino, Path("ir"), {"precision": "int8"}),
        (("auto", "fixed"), {"num_threads": 2}, Exported, Path("fixed"), {"num_threads": 2}),
        (("ncnn", "fixed"), {}, None, None, {}),
        (("auto", "fixed"), {"precision": "fp32", "device": "cpu"}, Exported, Path("fixed"), {}),
        (("auto", "sized"), {}, Exported, Path("sized"), {}),  # IR of other shapes than the engine's own
        (("openvino", "sized"), {}, Exported, Path("sized"), {}),
        (("auto", "plain"), {}, OpenVino, "plain", {}),
        (("onnxruntime", "plain"), {}, Ort, "plain", {}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("recorded")
def test_the_engine_follows_from_name_model_and_precision(arguments, options, expected, model, made_with):
    if expected is None:  # a runtime is no engine that can be named
        with pytest.raises(ValueError, match="unknown engine 'ncnn'"):
            make_engine(*arguments, **options)
        return
    made = make_engine(*arguments, **options)
    assert type(made) is expected
    assert made.arguments == (model,)
    assert made.options == OPTIONS[expected] | made_with


@pytest.mark.parametrize(
    ("machine_has", "asked", "expected", "reason"),
    [
        ({}, {}, "openvino", "exact, and the quickest on x86 CPUs"),
        ({"cpu": "AMD64"}, {}, "openvino", "exact, and the quickest on x86 CPUs"),
        ({"cpu": "arm64"}, {}, "onnxruntime", "exact, and always installed"),
        ({"packages": ("onnxruntime", "torch")}, {}, "onnxruntime", "exact, and always installed"),
        ({}, {"device": "cpu"}, "openvino", "exact, and the quickest on x86 CPUs"),
        ({"has_cuda": True}, {}, "torch", "there is an NVIDIA GPU, and torch is built for it"),
        ({"has_cuda": True}, {"precision": "bf16"}, "torch", "there is an NVIDIA GPU, and torch is built for it"),
        ({"has_cuda": True}, {"device": "cpu"}, "openvino", "exact, and the quickest on x86 CPUs"),
        ({"has_cuda": True, "packages": ("onnxruntime",)}, {}, "onnxruntime", "exact, and always installed"),
        ({}, {"precision": "bf16"}, "openvino", "the quickest that runs bf16 on a CPU"),
        ({"packages": ("onnxruntime",)}, {"precision": "bf16"}, "torch", "onnxruntime runs fp32 here, not bf16"),
        ({}, {"precision": "fp16"}, "torch", "onnxruntime runs fp32 here, not fp16"),
        ({}, {"device": "gpu"}, "openvino", "gpu is a device of OpenVINO's"),
        ({}, {"device": "npu"}, "openvino", "npu is a device of OpenVINO's"),
        ({}, {"device": "coreml"}, "onnxruntime", "coreml is a device of ONNX Runtime's"),
        ({}, {"device": "directml"}, "onnxruntime", "directml is a device of ONNX Runtime's"),
        ({}, {"model": MODULE}, "torch", "the model is a torch module"),
        ({}, {"model": "tuned.pt"}, "torch", "tuned.pt is a file of PyTorch's"),
    ],
)
def test_the_quickest_exact_engine_is_chosen_and_says_why(machine, machine_has, asked, expected, reason):
    machine(**machine_has)
    assert choose_engine(**asked) == (expected, reason)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("tensorrt",), {}, "unknown engine 'tensorrt'; expected auto, onnxruntime, openvino, torch"),
        (("onnxruntime",), {"precision": "int4"}, "unknown precision 'int4'; expected one of fp32, bf16, fp16, int8"),
        (("onnxruntime",), {"precision": "bf16"}, "runs fp32, got precision='bf16'; use engine='openvino' or 'torch'"),
        (("onnxruntime",), {"precision": "int8"}, "or name a folder of `mobile-sam export --to onnx --precision int8`"),
        (("onnxruntime", MODULE), {}, "onnxruntime engine cannot run a torch module; use engine='torch'"),
        (("openvino", MODULE), {}, "openvino engine cannot run a torch module; use engine='torch'"),
        (("onnxruntime",), {"device": "tpu"}, "has no device 'tpu'; expected one of cpu, cuda, coreml, directml"),
        (("onnxruntime",), {"device": "directml"}, r"'directml' needs DmlExecution.* \(it has cpu.*pip install onnxr"),
        (("openvino",), {"device": "tpu"}, "openvino engine has no device 'tpu' here; it has auto, cpu"),
        (("openvino",), {"hint": "speed"}, "hint must be one of latency, throughput, got 'speed'"),
        (("torch",), {"device": "tpu"}, r"torch has no device 'tpu' here \(Expected one of"),
        (("torch",), {"device": "cuda:99"}, r"torch has no device 'cuda:99' here \(.+\); leave device out"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("onnxruntime", "ir"), {}, "ir was exported for ir, which the onnxruntime engine cannot run"),
        (("openvino", "fixed"), {}, "fixed was exported for fixed, which the openvino engine cannot run"),
        (("torch", "ir"), {}, "ir was exported for ir, which the torch engine cannot run"),
        (("auto", "fixed"), {"precision": "bf16"}, "fixed was exported in fp32, got precision='bf16'; leave it out"),
        (("auto", "fixed"), {"device": "cuda"}, "fixed was exported for fixed, which runs on the CPU here, got 'cuda'"),
    ],
)
@pytest.mark.usefixtures("recorded")
def test_an_exported_folder_runs_only_as_it_was_exported(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(*arguments, **options)


def test_an_export_that_no_runtime_here_runs_is_refused(tmp_path):
    ExportManifest("coreml", None, "fp32", "id", "vit_t").write(tmp_path)
    with pytest.raises(ValueError, match="was exported for coreml, which does not run here"):
        make_engine("auto", tmp_path)


def test_a_damaged_manifest_is_told_before_an_engine_is_made(tmp_path):
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(
        WeightsError, match=r"export\.json is missing or damaged .*; make it again with `mobile-sam exp"
    ):
        make_engine("auto", tmp_path)


def test_an_exported_model_folder_with_another_file_is_refused(tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"other")
    ExportManifest("onnx", MODEL_FOLDER, "fp32", "id", "vit_t", files={"encoder.onnx": "0" * 64}).write(tmp_path)
    with pytest.raises(WeightsError, match=r"encoder\.onnx is missing or is not what was exported"):
        make_engine("auto", tmp_path)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("torch", "pip install 'mobile-sam[torch]'"),
        ("onnxruntime", "pip install onnxruntime"),
        ("openvino", "pip install 'mobile-sam[openvino]'"),
    ],
)
def test_an_engine_that_is_not_installed_says_what_to_install(machine, name, command):
    machine(packages=())
    with pytest.raises(MissingDependencyError) as caught:
        make_engine(name)
    assert str(caught.value) == f"the {name} engine cannot run: {name} is not installed; run: {command}"
    assert caught.value.name == name
    assert why_unavailable(name) == f"{name} is not installed; run: {command}"


@pytest.mark.usefixtures("recorded")
def test_an_export_for_openvino_says_what_to_install_where_it_is_missing(machine):
    machine(packages=("onnxruntime", "torch"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'mobile-sam\[openvino\]'"):
        make_engine("auto", "ir")


@pytest.mark.parametrize(("name", "words"), [("openvino", ["devices: cpu", "fp32", "int8"]), ("torch", ["fp32, bf16"])])
def test_an_engine_is_described_by_version_devices_and_precisions(name, words):
    from importlib.metadata import version

    told = describe_engine(name)
    assert told.startswith(version(name))
    assert [word for word in words if word not in told] == []
    assert set(ENGINES) == {"onnxruntime", "openvino", "torch"}
