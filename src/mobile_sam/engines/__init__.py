"""Engines: who runs the networks. `make_engine` is the door; each engine's libraries are imported when it is made."""

from __future__ import annotations

import platform
from ctypes.util import find_library
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.manifest import MODEL_FOLDER, OPENVINO_ENGINE, ExportManifest
from mobile_sam.core.weights import MANIFEST_FILE, is_bundled_name
from mobile_sam.engines.base import Engine
from mobile_sam.engines.ort_module import onnxruntime_module

if TYPE_CHECKING:
    from mobile_sam.modeling.sam import Sam

ENGINES = {
    "onnxruntime": "onnxruntime",
    "openvino": "'mobile-sam[openvino]'",
    "torch": "'mobile-sam[torch]'",
}
"""Each engine, named after the package it imports, and what pip has to install for it; all but the first are extras."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "choose_engine",
    "describe_engine",
    "make_engine",
    "why_unavailable",
]


def why_unavailable(name: str) -> str | None:
    """Say why an engine cannot run here, or None when it can."""
    return None if find_spec(name) else f"{name} is not installed; run: pip install {ENGINES[name]}"


def describe_engine(name: str) -> str:
    """Say what is known of an installed engine without importing torch, which takes seconds."""
    if name == "torch":
        return f"{version(name)}; fp32, bf16, fp16"
    if name == "openvino":
        import openvino

        from mobile_sam.engines.openvino import native_precisions

        core = openvino.Core()
        devices = ", ".join(device.lower() for device in core.available_devices)
        is_quick = "bf16" in native_precisions(core)
        return f"{version(name)}, devices: {devices}; fp32{', bf16' if is_quick else ''}, exported int8"
    onnxruntime = onnxruntime_module()

    from mobile_sam.engines.ort import available_providers

    return f"{onnxruntime.__version__}, devices: {', '.join(available_providers())}; fp32"


def choose_engine(
    model: Sam | str | Path | None = None, device: str | None = None, precision: str = "fp32"
) -> tuple[str, str]:
    """Choose the quickest engine that is installed and exact, and say why.

    What was measured is in benchmarks/results: OpenVINO is before ONNX Runtime on x86 CPUs. That PyTorch on a GPU is
    before both is taken for granted.

    Args:
        model: see `make_engine`.
        device: see `make_engine`.
        precision: see `make_engine`; what another than fp32 gives up is the caller's own choice.

    Returns:
        The engine's name, and the reason.
    """
    if model is not None and not isinstance(model, (str, Path)):
        return "torch", "the model is a torch module"
    if not _may_run_without_torch(model):
        return "torch", f"{model} is a file of PyTorch's"
    if device in ("gpu", "npu"):
        return "openvino", f"{device} is a device of OpenVINO's"
    if device in ("coreml", "directml"):
        return "onnxruntime", f"{device} is a device of ONNX Runtime's"
    if device is None and find_spec("torch") and _has_cuda():
        return "torch", "there is an NVIDIA GPU, and torch is built for it"
    if precision == "bf16" and find_spec("openvino") and device in (None, "cpu"):
        return "openvino", "the quickest that runs bf16 on a CPU"
    if precision != "fp32":
        return "torch", f"onnxruntime runs fp32 here, not {precision}"
    if find_spec("openvino") and device in (None, "cpu") and platform.machine().lower() in ("x86_64", "amd64"):
        return "openvino", "exact, and the quickest on x86 CPUs"
    return "onnxruntime", "exact, and always installed"


def make_engine(
    name: str = "auto",
    model: Sam | str | Path | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
    num_threads: int = 0,
    hint: str = "latency",
) -> Engine:
    """Make an engine.

    Args:
        name: "onnxruntime", "openvino", "torch", or "auto", see `choose_engine`; an exported folder brings its own.
        model: a `Sam` module, a checkpoint's path, a folder of `mobile-sam export` or `mobile-sam distill export`, or
            None or "mobile_sam" for the bundled weights.
        device: onnxruntime: "cpu" (default), "cuda", "coreml" or "directml". openvino: "cpu" (default), "gpu", "npu",
            "auto". torch: any torch device; by default that of the module, or the best one present.
        precision: "fp32"; with openvino or torch "bf16"; with torch "fp16" (autocast). "int8" is that of an exported
            folder. None for fp32, or for what the folder was exported in.
        num_threads: CPU threads; 0 is the engine's own choice. (torch: torch.set_num_threads.)
        hint: of openvino: "latency", or "throughput" for many pictures side by side.

    Raises:
        ValueError: an unknown name, device or precision, or a combination that does not exist.
        MissingDependencyError: the engine is not installed; the message names the extra.
        WeightsError: weights that are damaged or of another model.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if name not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine {name!r}; expected auto, {', '.join(ENGINES)}")
    if isinstance(model, (str, Path)) and is_bundled_name(model):
        model = None
    manifest = _manifest_of(model)
    if manifest is not None:
        if name not in ("auto", manifest.engine):
            raise ValueError(f"{model} was exported for {manifest.target}, which the {name} engine cannot run")
        if manifest.runtime != OPENVINO_ENGINE:
            return _make_exported(Path(str(model)), manifest, device, precision, num_threads)
        name = "openvino"
    if name == "auto":
        name = choose_engine(model, device, precision or "fp32")[0]
    _check_installed(name, model)
    if name == "torch":
        from mobile_sam.engines.pytorch import TorchEngine

        return TorchEngine(model, device=device, precision=precision or "fp32")
    if model is not None and not isinstance(model, (str, Path)):
        raise ValueError(f"the {name} engine cannot run a torch module; use engine='torch', or engine='auto'")
    if name == "openvino":
        from mobile_sam.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, device=device or "cpu", precision=precision, num_threads=num_threads, hint=hint)
    if precision not in (None, "fp32"):
        raise ValueError(
            f"the onnxruntime engine runs fp32, got precision={precision!r}; use engine='openvino' or 'torch', or name "
            "a folder of `mobile-sam export --to onnx --precision int8`"
        )
    from mobile_sam.engines.ort import OrtEngine

    return OrtEngine(model, provider=device or "cpu", num_threads=num_threads)


def _manifest_of(model: Sam | str | Path | None) -> ExportManifest | None:
    """Read what a folder of `mobile-sam export` says of itself; None for what is none, or is for every engine."""
    if not isinstance(model, (str, Path)) or not (Path(model) / MANIFEST_FILE).is_file():
        return None
    manifest = ExportManifest.read(Path(model))
    if manifest.runtime == MODEL_FOLDER:
        manifest.check_files(Path(model))
        return None
    return manifest


def _make_exported(
    folder: Path, manifest: ExportManifest, device: str | None, precision: str | None, num_threads: int
) -> Engine:
    """Make the engine over graphs of a runtime."""
    from mobile_sam.engines.exported import ExportedEngine

    if precision not in (None, manifest.precision):
        raise ValueError(f"{folder} was exported in {manifest.precision}, got precision={precision!r}; leave it out")
    if device not in (None, "cpu"):
        raise ValueError(f"{folder} was exported for {manifest.target}, which runs on the CPU here, got {device!r}")
    return ExportedEngine(folder, num_threads=num_threads)


def _check_installed(name: str, model: Sam | str | Path | None) -> None:
    reason = why_unavailable(name)
    if reason is None:
        return
    if isinstance(model, (str, Path)) and not Path(model).exists():
        raise FileNotFoundError(f"no checkpoint at {model}; the bundled weights are called 'mobile_sam'")
    raise MissingDependencyError(f"the {name} engine cannot run: {reason}", name=name)


def _has_cuda() -> bool:
    """Whether torch would find an NVIDIA GPU, told without importing it: a build not for CPUs, and the driver."""
    library = "nvcuda" if platform.system() == "Windows" else "cuda"
    return not version("torch").endswith("+cpu") and find_library(library) is not None


def _may_run_without_torch(model: Sam | str | Path | None) -> bool:
    if model is None or not isinstance(model, (str, Path)):
        return model is None
    return str(model).endswith(".safetensors") or Path(model).is_dir()
