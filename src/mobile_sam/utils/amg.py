"""The helpers of SAM's "segment everything" under SAM's names, for arrays as well as tensors.

Tensors are answered with tensors on their device, arrays with arrays. The work is done by `mobile_sam.core` on the CPU:
a tensor there shares its memory, one on another device is copied (`uncrop_*` and `box_xyxy_to_xywh` stay on it). torch
is imported only where a tensor comes in.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core import grids, regions
from mobile_sam.core.masks import mask_window, masks_to_boxes, require_masks, stability_score
from mobile_sam.core.rle import decode_rle, rle_area, runs_to_rle, window_to_runs
from mobile_sam.utils.mask_data import MaskData, is_tensor, to_array

if TYPE_CHECKING:
    import torch

__all__ = [
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]

ArrayOrTensor = TypeVar("ArrayOrTensor", "NDArray[Any]", "torch.Tensor")


def is_box_near_crop_edge(
    boxes: ArrayOrTensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0
) -> ArrayOrTensor:
    """Boxes that a crop may have cut off: near an edge of the crop that is no edge of the picture.

    Args:
        boxes: (N, 4) XYXY in the crop's frame.
        crop_box: [x1, y1, x2, y2] of the crop in the picture.
        orig_box: [x1, y1, x2, y2] of the picture, [0, 0, W, H].
        atol: how far from an edge is still near, in pixels.

    Returns:
        (N,) bool.

    Raises:
        ValueError: if the boxes are not (N, 4), or an edge box has not four numbers.
    """
    if len(_shape_of(boxes, "boxes")) != 2:
        raise ValueError(f"boxes must be (N, 4), got {tuple(boxes.shape)}; use boxes[None] for a single box")
    crop_xyxy, image_xyxy = _corners(crop_box, "crop_box"), _corners(orig_box, "orig_box")
    boxes_xyxy = uncrop_boxes_xyxy(to_array(boxes).astype(np.float64), crop_xyxy)  # (N, 4)
    return _in_kind_of(boxes, grids.are_near_crop_edge(boxes_xyxy, crop_xyxy, image_xyxy, atol))


def box_xyxy_to_xywh(box_xyxy: ArrayOrTensor) -> ArrayOrTensor:
    """Boxes by two corners as corner and size, with width = x2 - x1: (..., 4) -> (..., 4) of the same dtype.

    Raises:
        ValueError: if the last axis is not x1, y1, x2, y2.

    >>> box_xyxy_to_xywh(np.array([10, 20, 40, 25]))
    array([10, 20, 30,  5])
    """
    _require_last_axis(box_xyxy, "box_xyxy", 4)
    box_xywh: ArrayOrTensor = _zeros(box_xyxy, tuple(box_xyxy.shape))
    box_xywh[..., :2] = box_xyxy[..., :2]
    box_xywh[..., 2:] = box_xyxy[..., 2:] - box_xyxy[..., :2]
    return box_xywh


def batch_iterator(batch_size: int, *args: Any) -> Generator[list[Any], None, None]:
    """Walk through several sequences in step, a batch at a time.

    Args:
        batch_size: entries per batch, at least 1; the last batch has what is left.
        args: lists, arrays or tensors of one length.

    Returns:
        A generator of lists with a slice of each sequence.

    Raises:
        ValueError: if nothing is passed, the lengths differ, or batch_size is below 1.

    >>> list(batch_iterator(2, [1, 2, 3], "abc"))
    [[[1, 2], 'ab'], [[3], 'c']]
    """
    lengths = [len(values) for values in args]
    if len(set(lengths)) != 1:
        raise ValueError(f"pass one or more sequences of one length, got lengths {lengths}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return ([values[start : start + batch_size] for values in args] for start in range(0, lengths[0], batch_size))


def mask_to_rle_pytorch(tensor: NDArray[np.bool_] | torch.Tensor) -> list[dict[str, Any]]:
    """Masks as plain run lengths, down the columns and background first.

    Args:
        tensor: (B, H, W) bool, or whole numbers, 0 for background, a tensor or an array.

    Returns:
        For each mask {"size": [H, W], "counts": list of int}; counts begin with 0 if the first pixel is mask.

    Raises:
        ValueError: if the masks are not (B, H, W) bool, or have no pixels.

    >>> mask_to_rle_pytorch(np.array([[[False, True], [False, True]]]))
    [{'size': [2, 2], 'counts': [2, 2]}]
    """
    _shape_of(tensor, "tensor")
    masks = _to_masks(tensor)
    require_masks(masks)
    height, width = masks.shape[1:]
    windows = (mask_window(mask) for mask in masks)
    runs = [window_to_runs(window, corner_xy, (height, width)) for corner_xy, window in windows]
    return [{"size": [height, width], "counts": counts.tolist()} for counts in runs]


def rle_to_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Unfold run lengths, plain or compressed: {"size": [H, W], "counts"} -> (H, W) bool.

    Raises:
        ValueError: if size or counts is missing or malformed, or the runs do not fill the mask exactly.
    """
    return decode_rle(rle)


def area_from_rle(rle: Mapping[str, Any]) -> int:
    """Count the mask pixels of run lengths, plain or compressed.

    Raises:
        ValueError: as `rle_to_mask`.
    """
    return rle_area(rle)


def calculate_stability_score(masks: ArrayOrTensor, mask_threshold: float, threshold_offset: float) -> ArrayOrTensor:
    """How little masks change when the threshold moves: the IoU of the masks at threshold +- offset.

    Args:
        masks: (..., H, W) logits.
        mask_threshold: where masks are cut, 0 for SAM.
        threshold_offset: how far the cut moves to either side, not negative.

    Returns:
        (...) in [0, 1], a float32 tensor as SAM's or a float64 array; 0, where SAM has NaN, if even the lower cut
        leaves nothing.

    Raises:
        ValueError: if the logits have no two last axes or the offset is negative.
    """
    _shape_of(masks, "masks")
    scores = stability_score(to_array(masks), float(mask_threshold), float(threshold_offset))
    return _in_kind_of(masks, scores.astype(np.float32) if is_tensor(masks) else scores)


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """Points at the centres of a grid's cells: (n_per_side ** 2, 2) float64 x, y in (0, 1), x runs fastest.

    Raises:
        ValueError: if n_per_side is not a whole number of at least 1.
    """
    return grids.point_grid(n_per_side)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: float) -> list[NDArray[np.float64]]:
    """Grids for the picture and each of n_layers layers of crops, layer i with n_per_side / scale_per_layer ** i.

    Returns:
        n_layers + 1 grids as `build_point_grid` makes them.

    Raises:
        ValueError: if a number is out of its range, or a layer would be left without points.
    """
    return grids.layer_point_grids(n_per_side, n_layers, scale_per_layer)


def generate_crop_boxes(
    im_size: Sequence[int], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Cut a picture into layers of overlapping crops.

    Args:
        im_size: height and width of the picture in pixels.
        n_layers: layers of crops, layer i with 2 ** i per side.
        overlap_ratio: overlap in the first layer as a share of the shorter side, 0 to 1; it halves from layer to layer.

    Returns:
        Boxes [x1, y1, x2, y2] in pixels, the picture first; and the layer of each. Unlike SAM's, without the empty
        boxes of a picture too small for so many.

    Raises:
        ValueError: if a number is out of its range.
    """
    return grids.crop_boxes(im_size, n_layers, overlap_ratio)


def uncrop_boxes_xyxy(boxes: ArrayOrTensor, crop_box: Sequence[float]) -> ArrayOrTensor:
    """Boxes of a crop in the picture's frame: (..., 4) XYXY -> (..., 4) XYXY, crop_box as [x1, y1, x2, y2].

    Floats keep their dtype; whole numbers become int64.

    Raises:
        ValueError: if the last axis is not x1, y1, x2, y2, or crop_box is not four numbers.
    """
    _require_last_axis(boxes, "boxes", 4)
    x1, y1, _, _ = _corners(crop_box, "crop_box")
    moved: ArrayOrTensor = _moved(boxes, [x1, y1, x1, y1])
    return moved


def uncrop_points(points: ArrayOrTensor, crop_box: Sequence[float]) -> ArrayOrTensor:
    """Points of a crop in the picture's frame: (..., 2) x, y -> (..., 2), crop_box as [x1, y1, x2, y2].

    Floats keep their dtype; whole numbers become int64.

    Raises:
        ValueError: if the last axis is not x, y, or crop_box is not four numbers.
    """
    _require_last_axis(points, "points", 2)
    x1, y1, _, _ = _corners(crop_box, "crop_box")
    moved: ArrayOrTensor = _moved(points, [x1, y1])
    return moved


def uncrop_masks(masks: ArrayOrTensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> ArrayOrTensor:
    """Masks of a crop in the picture's frame, zero outside of the crop.

    Args:
        masks: (..., h, w) of any dtype, of the crop's size.
        crop_box: [x1, y1, x2, y2] of the crop in the picture.
        orig_h: height of the picture in pixels.
        orig_w: width of the picture in pixels.

    Returns:
        (..., H, W) of the same dtype; the masks themselves if the crop is the whole picture.

    Raises:
        ValueError: if the masks have another size than the crop, or the crop leaves the picture.
    """
    *leading, height, width = _shape_of_masks(masks)
    x1, y1, x2, y2 = (int(side) for side in _corners(crop_box, "crop_box"))
    if not (0 <= x1 <= x2 <= orig_w and 0 <= y1 <= y2 <= orig_h):
        raise ValueError(f"crop_box must lie in the picture of {orig_h} x {orig_w} (H x W), got {[x1, y1, x2, y2]}")
    if (height, width) != (y2 - y1, x2 - x1):
        raise ValueError(
            f"masks must be (..., {y2 - y1}, {x2 - x1}) as crop_box is, got {tuple(masks.shape)}; resize them first"
        )
    if (height, width) == (orig_h, orig_w):
        return masks
    uncropped: ArrayOrTensor = _zeros(masks, (*leading, orig_h, orig_w))
    uncropped[..., y1:y2, x1:x2] = masks
    return uncropped


def remove_small_regions(mask: ArrayOrTensor, area_thresh: float, mode: str) -> tuple[ArrayOrTensor, bool]:
    """Fill the small holes of a mask, or remove its small islands; corners connect.

    Args:
        mask: (H, W) bool.
        area_thresh: regions with fewer pixels are small.
        mode: "holes" or "islands"; of islands that are all small the largest stays.

    Returns:
        The mask, (H, W) bool, and whether it was changed.

    Raises:
        ValueError: if the mask is not (H, W) bool, or the mode is another.
    """
    _shape_of(mask, "mask")
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', got {mode!r}")
    cleaned, is_changed = regions.remove_small_regions(
        _to_masks(mask), area_thresh, "holes" if mode == "holes" else "islands"
    )
    return (_in_kind_of(mask, cleaned) if is_changed else mask), is_changed


def coco_encode_rle(uncompressed_rle: Mapping[str, Any]) -> dict[str, Any]:
    """Put plain run lengths in COCO's compressed form, ready for JSON.

    Args:
        uncompressed_rle: {"size": [H, W], "counts": list of int}, as of `mask_to_rle_pytorch`.

    Returns:
        {"size": [H, W], "counts": str}.

    Raises:
        ValueError: if counts is compressed already or malformed, or the runs do not fill the mask exactly.

    >>> coco_encode_rle({"size": [2, 2], "counts": [2, 2]})
    {'size': [2, 2], 'counts': '22'}
    """
    rle_area(uncompressed_rle)  # refuses what is no rle
    if isinstance(uncompressed_rle["counts"], (str, bytes)):
        raise ValueError("counts must be a list of whole numbers, got a string: this rle is compressed already")
    height, width = uncompressed_rle["size"]
    return dict(runs_to_rle(uncompressed_rle["counts"], (height, width)))


def batched_mask_to_box(masks: ArrayOrTensor) -> ArrayOrTensor:
    """Tight boxes around masks.

    Args:
        masks: (..., H, W) bool, or whole numbers, 0 for background.

    Returns:
        (..., 4) int64 XYXY in mask pixels, both corners inclusive; an empty mask gives zeros.

    Raises:
        ValueError: if the masks are not (..., H, W) bool.

    >>> batched_mask_to_box(np.ones((5, 8), bool))
    array([0, 0, 7, 4])
    """
    *leading, height, width = _shape_of_masks(masks)
    stack = _to_masks(masks).reshape(math.prod(leading), height, width)  # (N, H, W)
    return _in_kind_of(masks, masks_to_boxes(stack).reshape(*leading, 4))


def _to_masks(values: Any) -> NDArray[Any]:
    """Masks as an array; whole numbers, as SAM's users have them, become bool."""
    masks = to_array(values)
    return masks != 0 if masks.dtype.kind in "iu" else masks


def _shape_of(values: object, name: str) -> tuple[int, ...]:
    if not isinstance(values, np.ndarray) and not is_tensor(values):
        raise ValueError(f"{name} must be a numpy array or a torch tensor, got {type(values).__name__}; use np.array")
    return tuple(values.shape)


def _shape_of_masks(masks: object) -> tuple[int, ...]:
    shape = _shape_of(masks, "masks")
    if len(shape) < 2:
        raise ValueError(f"masks must be (..., H, W), got {shape}")
    return shape


def _require_last_axis(values: object, name: str, num_values: int) -> None:
    shape = _shape_of(values, name)
    if shape[-1:] != (num_values,):
        raise ValueError(f"{name} must be (..., {num_values}), got {shape}")


def _corners(box_xyxy: Iterable[float], name: str) -> list[float]:
    """Four Python numbers out of a list, an array or a tensor."""
    numbers = [number.item() if hasattr(number, "item") else number for number in box_xyxy]
    if len(numbers) != 4:
        raise ValueError(f"{name} must be x1, y1, x2, y2, got {numbers}")
    return numbers


def _moved(values: Any, offset: Sequence[float]) -> Any:
    """Add an offset to the last axis; floats keep their dtype."""
    if is_tensor(values):
        import torch

        dtype = values.dtype if values.is_floating_point() else None
        return values + torch.tensor(offset, dtype=dtype, device=values.device)
    return values + np.array(offset, dtype=values.dtype if values.dtype.kind == "f" else None)


def _zeros(given: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of the dtype, and on the device, of what is given."""
    return given.new_zeros(shape) if is_tensor(given) else np.zeros(shape, given.dtype)


def _in_kind_of(given: ArrayOrTensor, result: NDArray[Any]) -> ArrayOrTensor:
    """The result as it is, or as a tensor on the device of a given tensor."""
    answer: Any = result
    if is_tensor(given):
        import torch

        answer = torch.from_numpy(result).to(given.device)
    in_kind: ArrayOrTensor = answer
    return in_kind
