"""Engines: who runs the networks. `make_engine` is the door; each engine's libraries are imported when it is made."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.weights import is_bundled_name
from mobile_sam.engines.base import Engine

if TYPE_CHECKING:
    from mobile_sam.modeling.sam import Sam

ENGINES = {"onnxruntime": "onnxruntime", "torch": "'mobile-sam[torch]'"}
"""Each engine, named after the package it imports, and what pip has to install for it (torch is an extra)."""

PRECISIONS = ("fp32", "bf16", "fp16")

__all__ = ["ENGINES", "PRECISIONS", "Engine", "describe_engine", "make_engine", "why_unavailable"]


def why_unavailable(name: str) -> str | None:
    """Say why an engine cannot run here, or None when it can."""
    return None if find_spec(name) else f"{name} is not installed; run: pip install {ENGINES[name]}"


def describe_engine(name: str) -> str:
    """Say what is known of an installed engine without importing torch, which takes seconds."""
    if name == "torch":
        from importlib.metadata import version

        return f"{version(name)}; {', '.join(PRECISIONS)}"
    import onnxruntime

    from mobile_sam.engines.ort import available_providers

    return f"{onnxruntime.__version__}, devices: {', '.join(available_providers())}; fp32"


def make_engine(
    name: str = "auto",
    model: Sam | str | Path | None = None,
    *,
    device: str | None = None,
    precision: str = "fp32",
    num_threads: int = 0,
) -> Engine:
    """Make an engine.

    Args:
        name: "onnxruntime", "torch", or "auto": torch for a module or a .pt checkpoint, else onnxruntime.
        model: a `Sam` module, a checkpoint's path, a model folder (`mobile_sam.export.model_folder`), or None or
            "mobile_sam" for the bundled weights.
        device: onnxruntime: "cpu" (default), "cuda", "coreml" or "directml". torch: any torch device; by default
            that of the module, or the best one present.
        precision: "fp32"; with torch also "bf16" or "fp16" (autocast).
        num_threads: CPU threads of onnxruntime; 0 is its own choice. (torch: torch.set_num_threads.)

    Raises:
        ValueError: an unknown name, device or precision, or a combination that does not exist.
        MissingDependencyError: the engine is not installed; the message names the extra.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if isinstance(model, (str, Path)) and is_bundled_name(model):
        model = None
    if name == "auto":
        name = "onnxruntime" if precision == "fp32" and _may_run_on_onnxruntime(model) else "torch"
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; expected auto, {', '.join(ENGINES)}")
    reason = why_unavailable(name)
    if reason:
        if isinstance(model, (str, Path)) and not Path(model).exists():
            raise FileNotFoundError(f"no checkpoint at {model}; the bundled weights are called 'mobile_sam'")
        raise MissingDependencyError(f"the {name} engine cannot run: {reason}", name=name)
    if name == "torch":
        from mobile_sam.engines.pytorch import TorchEngine

        return TorchEngine(model, device=device, precision=precision)
    if precision != "fp32":
        raise ValueError(f"the onnxruntime engine runs fp32, got precision={precision!r}; use engine='torch'")
    if model is not None and not isinstance(model, (str, Path)):
        raise ValueError("the onnxruntime engine cannot run a torch module; use engine='torch', or engine='auto'")
    from mobile_sam.engines.ort import OrtEngine

    return OrtEngine(model, provider=device or "cpu", num_threads=num_threads)


def _may_run_on_onnxruntime(model: Sam | str | Path | None) -> bool:
    if model is None or not isinstance(model, (str, Path)):
        return model is None
    return str(model).endswith(".safetensors") or Path(model).is_dir()
