"""MobileSAM: cut any object out of any picture, on hardware you already own.

Names are loaded when they are first used, so `import mobile_sam` is quick and never imports PyTorch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mobile_sam._version import __version__

if TYPE_CHECKING:
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.build_sam import (
        build_sam,
        build_sam_vit_b,
        build_sam_vit_h,
        build_sam_vit_l,
        build_sam_vit_t,
        sam_model_registry,
    )
    from mobile_sam.core.embedding import Embedding
    from mobile_sam.core.images import read_image
    from mobile_sam.core.predictions import Prediction
    from mobile_sam.core.prompts import Prompt
    from mobile_sam.everything.config import EverythingConfig
    from mobile_sam.one_call import SAM
    from mobile_sam.predictor import SamPredictor
    from mobile_sam.results import Results

_HOMES = {
    "SAM": "mobile_sam.one_call",
    "Embedding": "mobile_sam.core.embedding",
    "EverythingConfig": "mobile_sam.everything.config",
    "Prediction": "mobile_sam.core.predictions",
    "Prompt": "mobile_sam.core.prompts",
    "Results": "mobile_sam.results",
    "SamAutomaticMaskGenerator": "mobile_sam.automatic_mask_generator",
    "SamPredictor": "mobile_sam.predictor",
    "build_sam": "mobile_sam.build_sam",
    "build_sam_vit_b": "mobile_sam.build_sam",
    "build_sam_vit_h": "mobile_sam.build_sam",
    "build_sam_vit_l": "mobile_sam.build_sam",
    "build_sam_vit_t": "mobile_sam.build_sam",
    "read_image": "mobile_sam.core.images",
    "sam_model_registry": "mobile_sam.build_sam",
}

__all__ = [
    "SAM",
    "Embedding",
    "EverythingConfig",
    "Prediction",
    "Prompt",
    "Results",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "__version__",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "read_image",
    "sam_model_registry",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mobile_sam' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from mobile_sam.core.errors import MissingDependencyError

        advice = f"mobile_sam.{name} needs PyTorch; run: pip install 'mobile-sam[torch]'"
        raise MissingDependencyError(advice, name="torch") from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _Package(ModuleType):
    """The package, in which the name `build_sam` is SAM's function although a submodule has it as well."""

    @property
    def build_sam(self) -> Any:
        return __getattr__("build_sam")

    @build_sam.setter
    def build_sam(self, submodule: ModuleType) -> None:
        """Ignore the submodule, which the import system binds here once it is loaded."""


sys.modules[__name__].__class__ = _Package
