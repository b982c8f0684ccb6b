"""The helpers of SAM's "segment everything" under SAM's names, with arrays and with tensors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.utils import amg

SAMS_NAMES = [
    "MaskData", "is_box_near_crop_edge", "box_xyxy_to_xywh", "batch_iterator", "mask_to_rle_pytorch", "rle_to_mask",
    "area_from_rle", "calculate_stability_score", "build_point_grid", "build_all_layer_point_grids",
    "generate_crop_boxes", "uncrop_boxes_xyxy", "uncrop_points", "uncrop_masks", "remove_small_regions",
    "coco_encode_rle", "batched_mask_to_box",
]  # fmt: skip

some_masks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)))
one_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))


@pytest.fixture(params=["array", "tensor"])
def made(request):
    """Make an array, or a tensor of the same dtype and values."""
    return np.array if request.param == "array" else lambda values, dtype=None: torch.tensor(np.array(values, dtype))


def dtype_name(values):
    return str(values.dtype).removeprefix("torch.")


def test_all_names_of_sams_module_are_there():
    assert sorted(amg.__all__) == sorted(SAMS_NAMES)


def test_all_names_work_with_arrays_where_torch_is_not_installed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        f"from mobile_sam.utils.amg import {', '.join(SAMS_NAMES)}\n"
        "masks = np.eye(4, dtype=bool)[None]\n"
        "table = MaskData(masks=masks, boxes=batched_mask_to_box(masks))\n"
        "table.filter(np.array([0])); table.cat(table); table.to_numpy()\n"
        "assert rle_to_mask(coco_encode_rle(mask_to_rle_pytorch(table['masks'])[1])).tolist() == masks[0].tolist()\n"
        "uncrop_masks(masks, [1, 1, 5, 5], 6, 6), uncrop_boxes_xyxy(table['boxes'], [1, 1, 5, 5])\n"
        "calculate_stability_score(masks.astype(float), 0, 1), remove_small_regions(masks[0], 2, 'holes')\n"
        "is_box_near_crop_edge(box_xyxy_to_xywh(table['boxes']), [1, 1, 5, 5], [0, 0, 6, 6])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


# MaskData


def table():
    return amg.MaskData(
        tensor=torch.tensor([[1, 2], [3, 4], [5, 6]]), array=np.array([1.5, 2.5, 3.5]), names=["a", "b", "c"], late=None
    )


@pytest.mark.parametrize(
    ("keep", "rows"),
    [([True, False, True], [0, 2]), ([False] * 3, []), ([2, 0, 0], [2, 0, 0]), ([-1], [2]), ([], [])],
)
def test_a_table_keeps_the_chosen_masks_in_every_column(made, keep, rows):
    data = table()
    data.filter(made(keep))
    assert torch.equal(data["tensor"], torch.tensor([[1, 2], [3, 4], [5, 6]])[rows].reshape(-1, 2))
    assert_array_equal(data["array"], np.array([1.5, 2.5, 3.5])[np.array(rows, int)])
    assert data["names"] == ["abc"[row] for row in rows]
    assert data["late"] is None


def test_tables_are_joined_by_copies():
    data, new = amg.MaskData(late=None), table()
    del new["late"]
    new["runs"] = [[1], [2], [3]]
    data.cat(new)
    data.cat(new)
    new["runs"][0].append(0)
    new["tensor"][:] = 0
    new["array"][:] = 0
    assert data["tensor"].tolist() == [[1, 2], [3, 4], [5, 6]] * 2
    assert data["array"].tolist() == [1.5, 2.5, 3.5] * 2
    assert data["names"] == list("abcabc")
    assert data["runs"] == [[1], [2], [3]] * 2
    assert dict(data.items()).keys() == {"late", "tensor", "array", "names", "runs"}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int64", "int64"), ("bool", "bool"), ("float32", "float32"), ("float16", "float16"), ("bfloat16", "float32")],
)
def test_tensors_become_arrays_of_their_dtype(dtype, expected):
    data = table()
    data["tensor"] = torch.tensor([1, 0]).to(getattr(torch, dtype))
    data.to_numpy()
    assert isinstance(data["tensor"], np.ndarray)
    assert data["tensor"].dtype == expected
    assert data["tensor"].tolist() == [1, 0]
    assert data["names"] == ["a", "b", "c"]


def test_a_tensor_with_a_gradient_becomes_an_array():
    data = amg.MaskData(scores=torch.ones(2, requires_grad=True))
    data.to_numpy()
    assert_array_equal(data["scores"], [1, 1])


# Boxes, points and masks of a crop


def test_boxes_near_an_edge_of_the_crop_only_are_found(made):
    # The crop's right and lower edges lie inside the picture, its left and upper ones are the picture's own
    boxes = [[0, 0, 50, 50], [30, 30, 80, 50], [30, 30, 79, 50], [30, 30, 50, 100], [0, 0, 100, 100], [30, 30, 50, 50]]
    found = amg.is_box_near_crop_edge(made(boxes), [0, 0, 100, 100], [0, 0, 200, 300])
    assert dtype_name(found) == "bool"
    assert found.tolist() == [False, True, False, True, True, False]
    inner = amg.is_box_near_crop_edge(made(boxes), [100, 100, 200, 200], [0, 0, 300, 300])
    assert inner.tolist() == [True, True, False, True, True, False]
    exact = amg.is_box_near_crop_edge(made(boxes), [100, 100, 200, 200], [0, 0, 300, 300], atol=0.0)
    assert exact.tolist() == [True, False, False, True, True, False]
    assert amg.is_box_near_crop_edge(made(boxes)[:0], [0, 0, 9, 9], [0, 0, 9, 9]).shape == (0,)


@pytest.mark.parametrize("dtype", ["int64", "int32", "float32", "float64"])
def test_boxes_become_corner_and_size_without_touching_the_callers(made, dtype):
    boxes = made([[10, 20, 40, 25], [1, 2, 3, 4]], dtype)
    found = amg.box_xyxy_to_xywh(boxes)
    assert type(found) is type(boxes)
    assert dtype_name(found) == dtype
    assert found.tolist() == [[10, 20, 30, 5], [1, 2, 2, 2]]
    assert boxes.tolist() == [[10, 20, 40, 25], [1, 2, 3, 4]]
    assert amg.box_xyxy_to_xywh(boxes[0]).tolist() == [10, 20, 30, 5]


@pytest.mark.parametrize("shape", [(3,), (3, 1), ()])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", "int64"), ("int32", "int64"), ("float32", "float32"), ("float64", "float64")]
)
def test_points_and_boxes_of_a_crop_are_moved_by_its_corner(made, shape, dtype, expected):
    points, boxes = np.arange(6).reshape(3, 2), np.arange(12).reshape(3, 4)
    rows = np.arange(3).reshape(shape) if shape else 1
    crop_box = [300, 20, 900, 500]
    found = amg.uncrop_points(made(points[rows], dtype), crop_box)
    assert dtype_name(found) == expected
    assert_array_equal(found, np.add(points, [300, 20])[rows])
    found = amg.uncrop_boxes_xyxy(made(boxes[rows], dtype), made(crop_box))
    assert dtype_name(found) == expected
    assert_array_equal(found, np.add(boxes, [300, 20, 300, 20])[rows])


@pytest.mark.parametrize("dtype", ["bool", "float32", "uint8"])
@pytest.mark.parametrize("leading", [(), (2,), (0,), (2, 3)])
def test_masks_of_a_crop_are_put_where_it_was(made, dtype, leading):
    masks = np.random.default_rng(0).integers(0, 2, (*leading, 3, 4))
    found = amg.uncrop_masks(made(masks, dtype), [5, 2, 9, 5], 6, 10)
    assert dtype_name(found) == dtype
    assert_array_equal(found, np.pad(masks, [(0, 0)] * len(leading) + [(2, 1), (5, 1)]))


def test_masks_of_the_whole_picture_are_given_back(made):
    masks = made(np.ones((2, 3, 4)), bool)
    assert amg.uncrop_masks(masks, [0, 0, 4, 3], 3, 4) is masks


# Batches, grids and crops


def test_batches_walk_through_all_sequences_in_step():
    found = list(amg.batch_iterator(2, list(range(5)), torch.arange(5) * 10, np.arange(5) + 0.5))
    assert [[part if isinstance(part, list) else part.tolist() for part in batch] for batch in found] == [
        [[0, 1], [0, 10], [0.5, 1.5]], [[2, 3], [20, 30], [2.5, 3.5]], [[4], [40], [4.5]]
    ]  # fmt: skip
    assert list(amg.batch_iterator(3, [])) == []
    assert next(amg.batch_iterator(9, [1, 2])) == [[1, 2]]


def test_grids_and_crops_go_by_sams_names():
    assert amg.build_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert [len(grid) for grid in amg.build_all_layer_point_grids(32, n_layers=2, scale_per_layer=2)] == [1024, 256, 64]
    boxes, layer_idxs = amg.generate_crop_boxes((480, 640), n_layers=1, overlap_ratio=1 / 3)
    assert (boxes[0], boxes[3], layer_idxs) == ([0, 0, 640, 480], [240, 0, 640, 320], [0, 1, 1, 1, 1])


# Masks


@given(some_masks)
def test_run_lengths_are_those_of_pycocotools_and_unfold_to_the_mask(masks):
    from_array, from_tensor = amg.mask_to_rle_pytorch(masks), amg.mask_to_rle_pytorch(torch.tensor(masks))
    assert from_array == from_tensor
    assert len(from_array) == len(masks)
    for mask, rle in zip(masks, from_array, strict=True):
        assert rle["size"] == list(mask.shape)
        assert all(type(count) is int for count in rle["counts"])
        assert (rle["counts"][0] == 0) == mask[0, 0]
        assert_array_equal(amg.rle_to_mask(rle), mask)
        assert amg.area_from_rle(rle) == mask.sum()
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert amg.coco_encode_rle(rle) == {"size": rle["size"], "counts": expected["counts"].decode()}


def test_run_lengths_go_down_the_columns_and_start_with_background():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert amg.mask_to_rle_pytorch(np.stack([mask, ~mask])) == [
        {"size": [2, 3], "counts": [2, 1, 1, 2]}, {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    ]  # fmt: skip


def test_stability_is_the_overlap_of_two_cuts(made):
    logits = np.array([[[-2.0, -0.5, 0.5, 3.0]], [[2, 2, 2, 2]], [[-9, -9, -9, -9]]])
    found = amg.calculate_stability_score(made(logits, np.float32), 0.0, 1.0)
    assert dtype_name(found) == ("float32" if isinstance(found, torch.Tensor) else "float64")
    assert_allclose(found, [1 / 3, 1, 0], rtol=1e-6)
    shaped = amg.calculate_stability_score(made(logits.reshape(3, 1, 2, 2)), mask_threshold=-1.0, threshold_offset=1.0)
    assert_allclose(shaped, [[2 / 3], [1], [0]], rtol=1e-6)


def test_stability_of_bfloat16_logits_with_a_gradient():
    logits = torch.tensor([[-2.0, -0.5, 0.5, 3.0]], dtype=torch.bfloat16, requires_grad=True)
    assert amg.calculate_stability_score(logits, 0.0, 1.0).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 2), (0,), (3, 0)])
def test_boxes_of_masks_hold_every_pixel_and_keep_the_leading_axes(made, leading):
    masks = np.random.default_rng(1).random((*leading, 6, 9)) > 0.9
    found = amg.batched_mask_to_box(made(masks))
    assert found.shape == (*leading, 4)
    assert dtype_name(found) == "int64"
    for index in np.ndindex(leading):
        ys, xs = masks[index].nonzero()
        expected = [xs.min(), ys.min(), xs.max(), ys.max()] if len(xs) else [0, 0, 0, 0]
        assert found[index].tolist() == expected


def test_the_box_of_an_empty_mask_is_zeros(made):
    assert amg.batched_mask_to_box(made(np.zeros((2, 5, 7), bool))).tolist() == [[0] * 4] * 2
    assert amg.batched_mask_to_box(made(np.zeros((2, 0, 7), bool))).tolist() == [[0] * 4] * 2


def parts_of(mask):
    """8-connected parts of a mask by flood fill, as sets of (row, column)."""
    left, parts = set(zip(*mask.nonzero(), strict=True)), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


@given(mask=one_mask, area=st.integers(0, 12), mode=st.sampled_from(["holes", "islands"]), as_tensor=st.booleans())
def test_regions_with_few_pixels_are_filled_or_removed(mask, area, mode, as_tensor):
    parts = parts_of(mask if mode == "islands" else ~mask)
    small = [part for part in parts if len(part) < area]
    given_mask = torch.tensor(mask) if as_tensor else mask.copy()
    found, is_changed = amg.remove_small_regions(given_mask, area, mode)
    assert type(found) is type(given_mask)
    assert is_changed is bool(small)
    assert_array_equal(given_mask, mask)
    if mode == "islands" and parts and len(small) == len(parts):
        kept = set(zip(*np.asarray(found).nonzero(), strict=True))
        assert kept in parts
        assert len(kept) == max(len(part) for part in parts)
        return
    expected = mask.copy()
    for part in small:
        for pixel in part:
            expected[pixel] = mode == "holes"
    assert_array_equal(found, expected)
    assert small or found is given_mask


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: amg.MaskData(area=5), "area must be a list, a numpy array or a torch tensor, got int; wrap it"),
        (lambda: table().filter(np.array([0.5])), r"keep must be \(N,\) bool or \(K,\) whole numbers, got float64"),
        (lambda: table().filter(np.ones((2, 2), bool)), r"keep must be .* got bool of shape \(2, 2\)"),
        (lambda: table().filter(torch.ones(4, dtype=torch.bool)), "for each of the 3 tensor, got 4"),
        (
            lambda: table().cat(amg.MaskData(array=torch.ones(3))),
            "array must be of one type .* ndarray here and Tensor",
        ),
        (lambda: amg.is_box_near_crop_edge(np.ones(4), [0] * 4, [0] * 4), r"boxes must be \(N, 4\), got \(4,\); use"),
        (lambda: amg.is_box_near_crop_edge(np.ones((1, 4)), [0] * 3, [0] * 4), "crop_box must be x1, y1, x2, y2, got"),
        (lambda: amg.box_xyxy_to_xywh(torch.ones(2, 3)), r"box_xyxy must be \(..., 4\), got \(2, 3\)"),
        (lambda: amg.box_xyxy_to_xywh([1, 2, 3, 4]), "box_xyxy must be a numpy array or a torch tensor, got list"),
        (lambda: amg.batch_iterator(2, [1], [1, 2]), r"sequences of one length, got lengths \[1, 2\]"),
        (lambda: amg.batch_iterator(2), r"pass one or more sequences of one length, got lengths \[\]"),
        (lambda: amg.batch_iterator(0, [1]), "batch_size must be at least 1, got 0"),
        (lambda: amg.mask_to_rle_pytorch(torch.ones(3, 4) > 0), r"masks must be \(N, H, W\), got \(3, 4\); use"),
        (lambda: amg.mask_to_rle_pytorch(np.ones((1, 3, 4))), "masks must be bool, got float64; compare first"),
        (lambda: amg.rle_to_mask({"size": [2, 2], "counts": [3]}), "runs that fill 2 x 2 pixels, got .* sum to 3"),
        (lambda: amg.coco_encode_rle({"size": [2, 2], "counts": [3]}), "runs that fill 2 x 2 pixels, got .* sum to 3"),
        (lambda: amg.coco_encode_rle({"size": [2, 2], "counts": "22"}), "got a string: this rle is compressed already"),
        (lambda: amg.calculate_stability_score(np.ones(3), 0, 1), r"logits must be \(..., H, W\), got \(3,\)"),
        (lambda: amg.calculate_stability_score(np.ones((3, 3)), 0, -1), "offset must not be negative, got -1"),
        (lambda: amg.uncrop_points(np.ones((2, 3)), [0, 0, 1, 1]), r"points must be \(..., 2\), got \(2, 3\)"),
        (
            lambda: amg.uncrop_masks(np.ones((1, 3, 3)), [0, 0, 4, 3], 9, 9),
            r"must be \(..., 3, 4\) as crop_box is, got",
        ),
        (
            lambda: amg.uncrop_masks(np.ones((1, 3, 4)), [7, 0, 11, 3], 9, 9),
            r"in the picture of 9 x 9 .* got \[7, 0, 11",
        ),
        (lambda: amg.uncrop_masks(np.ones(3), [0, 0, 3, 1], 9, 9), r"masks must be \(..., H, W\), got \(3,\)"),
        (lambda: amg.remove_small_regions(np.ones((2, 2), bool), 1, "both"), "mode must be 'holes' or 'islands', got"),
        (lambda: amg.remove_small_regions(np.ones((2, 2)), 1, "holes"), "mask must be bool, got float64"),
        (lambda: amg.batched_mask_to_box(np.ones(3, bool)), r"masks must be \(..., H, W\), got \(3,\)"),
        (lambda: amg.batched_mask_to_box(torch.ones(2, 3, 4)), "masks must be bool, got float32; compare first"),
    ],
)
def test_mistakes_are_refused_with_advice(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_masks_of_whole_numbers_are_taken_as_in_sam(made):
    masks = np.zeros((2, 4, 5), np.uint8)
    masks[0, 1:3, 1:4] = 1
    masks[1, 0, 0] = 255
    whole, as_bool = made(masks), made(masks != 0)
    assert amg.mask_to_rle_pytorch(whole) == amg.mask_to_rle_pytorch(as_bool)
    assert_array_equal(amg.batched_mask_to_box(whole), amg.batched_mask_to_box(as_bool))
    cleaned, is_changed = amg.remove_small_regions(whole[0], 99, "holes")
    assert is_changed
    assert np.asarray(cleaned).all()
