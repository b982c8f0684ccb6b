"""Validation: protocols that name every choice, run side by side over models, with reports to check them by.

Names are loaded when they are first used: a model that is timed from its start shall not wait for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobile_sam.data.mask_files import read_detections, read_mask_file
    from mobile_sam.data.sources import list_picture_files, open_dataset
    from mobile_sam.evaluate.everything_protocol import EverythingProtocol
    from mobile_sam.evaluate.latency_results import LatencyProtocol
    from mobile_sam.evaluate.models import Model, ModelSpec, make_models
    from mobile_sam.evaluate.presets import agreement_protocols, everything_protocols, prompts_protocols
    from mobile_sam.evaluate.protocols import AgreementProtocol, BoxesProtocol, PromptsProtocol
    from mobile_sam.evaluate.report.content import Report
    from mobile_sam.evaluate.session import RunOptions
    from mobile_sam.evaluate.validate import (
        evaluate_agreement,
        evaluate_boxes,
        evaluate_everything,
        evaluate_latency,
        evaluate_prompts,
    )

_HOMES = {
    "AgreementProtocol": "evaluate.protocols",
    "BoxesProtocol": "evaluate.protocols",
    "EverythingProtocol": "evaluate.everything_protocol",
    "LatencyProtocol": "evaluate.latency_results",
    "Model": "evaluate.models",
    "ModelSpec": "evaluate.models",
    "PromptsProtocol": "evaluate.protocols",
    "Report": "evaluate.report.content",
    "RunOptions": "evaluate.session",
    "agreement_protocols": "evaluate.presets",
    "evaluate_agreement": "evaluate.validate",
    "evaluate_boxes": "evaluate.validate",
    "evaluate_everything": "evaluate.validate",
    "evaluate_latency": "evaluate.validate",
    "evaluate_prompts": "evaluate.validate",
    "everything_protocols": "evaluate.presets",
    "list_picture_files": "data.sources",
    "make_models": "evaluate.models",
    "open_dataset": "data.sources",
    "prompts_protocols": "evaluate.presets",
    "read_detections": "data.mask_files",
    "read_mask_file": "data.mask_files",
}

__all__ = [
    "AgreementProtocol",
    "BoxesProtocol",
    "EverythingProtocol",
    "LatencyProtocol",
    "Model",
    "ModelSpec",
    "PromptsProtocol",
    "Report",
    "RunOptions",
    "agreement_protocols",
    "evaluate_agreement",
    "evaluate_boxes",
    "evaluate_everything",
    "evaluate_latency",
    "evaluate_prompts",
    "everything_protocols",
    "list_picture_files",
    "make_models",
    "open_dataset",
    "prompts_protocols",
    "read_detections",
    "read_mask_file",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mobile_sam.evaluate' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"mobile_sam.{_HOMES[name]}"), name)
