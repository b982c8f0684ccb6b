"""Makes `import mobile_sam` work for the original code where torchvision's compiled operators do not load.

The original imports torchvision for two things: resizing a PIL picture (pure Python) and `batched_nms` (compiled).
Beside a CPU build of torch the compiled library of torchvision's default wheel does not load, and `import torchvision`
fails because `torchvision::nms` is unknown. Importing this module first declares the missing operators and replaces
`batched_nms` by the same greedy suppression in plain torch. Where the compiled operators load, nothing is changed.
Nothing that encoding or clicking runs through is touched: only "segment everything" calls `batched_nms`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def compiled_operators_load() -> bool:
    """Whether torchvision's compiled library fits the installed torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed; make the environment with make_original_env.py")
    folder = Path(spec.submodule_search_locations[0])
    for library in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
        return True
    return False


def greedy_nms(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive, best score first: (N, 4), (N,) -> (K,) int64; ties keep their order."""
    order = scores.argsort(descending=True, stable=True)  # (N,)
    boxes_xyxy = boxes_xyxy[order].float()
    area_px = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])  # (N,)
    alive = torch.ones(len(order), dtype=torch.bool)
    for i, box_xyxy in enumerate(boxes_xyxy):
        if not alive[i]:
            continue
        corner_1 = torch.maximum(box_xyxy[:2], boxes_xyxy[i + 1 :, :2])  # (N - i - 1, 2)
        corner_2 = torch.minimum(box_xyxy[2:], boxes_xyxy[i + 1 :, 2:])  # (N - i - 1, 2)
        shared_px = (corner_2 - corner_1).clamp(min=0).prod(dim=1)  # (N - i - 1,)
        iou = shared_px / (area_px[i] + area_px[i + 1 :] - shared_px)
        alive[i + 1 :] &= ~(iou > iou_threshold)
    return order[alive]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Replaces torchvision's `batched_nms`: boxes of different categories (idxs) never suppress each other."""
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    shift = idxs.to(boxes)[:, None] * (boxes.max() + 1)  # (N, 1): one category's boxes lie clear of another's
    return greedy_nms(boxes + shift, scores, iou_threshold)


def install() -> torch.library.Library | None:
    """Declare and replace what is missing; the library returned must stay referenced for the operators to exist."""
    if compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name, signature in OPERATORS.items():
        library.define(name + signature)
    from torchvision.ops import boxes

    boxes.batched_nms = batched_nms
    return library


OPERATOR_LIBRARY = install()
