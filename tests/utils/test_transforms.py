from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mobile_sam.utils.transforms import ResizeLongestSide

SIZES_HW = [(1, 1), (300, 451), (480, 640), (2000, 333), (1024, 1024), (1023, 1025), (1, 3000)]
CORNERS_XY = np.array([[0, 0], [10.5, 3], [100, 200]])


def expected_hw(height, width, side):
    """SAM's rule in words of its own: the long side becomes `side`, the short one is rounded half up, at least 1."""
    short = min(height, width) * side // max(height, width)
    remainder = min(height, width) * side % max(height, width)
    short = max(1, short + (2 * remainder >= max(height, width)))
    return (side, short) if height >= width else (short, side)


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), side=st.sampled_from([64, 512, 1024]))
def test_the_long_side_gets_the_target_length(height, width, side):
    found, (h, w) = ResizeLongestSide.get_preprocess_shape(height, width, side), expected_hw(height, width, side)
    assert max(found) == side
    assert abs(found[0] - h) + abs(found[1] - w) <= (
        2 * min(height, width) * side % max(height, width) == 0
    )  # float tie


@pytest.mark.parametrize(
    ("size_hw", "target_hw"), [((480, 640), (768, 1024)), ((300, 451), (681, 1024)), ((2000, 333), (1024, 170))]
)
def test_known_pictures_get_known_sizes(size_hw, target_hw):
    assert ResizeLongestSide.get_preprocess_shape(*size_hw, 1024) == target_hw


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_points_and_boxes_are_scaled_side_by_side(size_hw):
    transform, (height, width) = ResizeLongestSide(1024), size_hw
    h, w = expected_hw(height, width, 1024)
    expected = CORNERS_XY * [w / width, h / height]
    assert_allclose(transform.apply_coords(CORNERS_XY, size_hw), expected)
    assert_allclose(transform.apply_coords(CORNERS_XY.reshape(1, 3, 1, 2), size_hw), expected.reshape(1, 3, 1, 2))
    boxes = CORNERS_XY[[[0, 1], [1, 2]]].reshape(2, 4)
    assert_allclose(transform.apply_boxes(boxes, size_hw), expected[[[0, 1], [1, 2]]].reshape(2, 4))
    assert_allclose(transform.apply_boxes(boxes[1], size_hw), expected[[1, 2]].reshape(1, 4))


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_tensors_are_moved_as_arrays_are(size_hw, dtype):
    transform = ResizeLongestSide(1024)
    points, boxes = torch.tensor(CORNERS_XY).to(dtype), torch.tensor([[1, 2, 30, 40], [5, 6, 7, 8]]).to(dtype)
    found = transform.apply_coords_torch(points, size_hw)
    assert found.dtype == torch.float32
    assert_allclose(found, transform.apply_coords(points.numpy(), size_hw), rtol=1e-6)
    assert_allclose(
        transform.apply_boxes_torch(boxes, size_hw), transform.apply_boxes(boxes.numpy(), size_hw), rtol=1e-6
    )
    assert transform.apply_boxes_torch(boxes[0], size_hw).shape == (1, 4)


def test_the_callers_coordinates_are_not_changed():
    coords, tensor = CORNERS_XY.copy(), torch.tensor(CORNERS_XY, dtype=torch.float32)
    ResizeLongestSide(1024).apply_coords(coords, (300, 451))
    ResizeLongestSide(1024).apply_coords_torch(tensor, (300, 451))
    assert_array_equal(coords, CORNERS_XY)
    assert_array_equal(tensor, CORNERS_XY.astype(np.float32))


@pytest.mark.parametrize("size_hw", [(300, 451), (700, 600), (16, 128), (1, 1)])
def test_a_picture_is_resized_as_pillow_does_and_nearly_as_torch_does(size_hw):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).resize(size_hw[::-1])
    pixels, transform = np.asarray(smooth), ResizeLongestSide(128)
    h, w = expected_hw(*size_hw, 128)
    found = transform.apply_image(pixels)
    assert found.dtype == np.uint8
    assert_array_equal(found, np.asarray(smooth.resize((w, h), Image.Resampling.BILINEAR)))
    by_torch = transform.apply_image_torch(torch.tensor(pixels).permute(2, 0, 1)[None].float())
    assert by_torch.shape == (1, 3, h, w)
    assert np.abs(by_torch[0].permute(1, 2, 0).numpy() - found).max() <= 1.5


# Imports seen in public code that uses segment_anything or the original mobile_sam, of modules that exist here
SEEN_IMPORTS = {
    "mobile_sam": (
        "sam_model_registry", "SamPredictor", "build_sam_vit_h", "build_sam_vit_l", "build_sam_vit_b",
        "build_sam_vit_t",
    ),
    "mobile_sam.build_sam": ("sam_model_registry", "build_sam_vit_t", "build_sam"),
    "mobile_sam.predictor": ("SamPredictor",),
    "mobile_sam.utils.transforms": ("ResizeLongestSide",),
    "mobile_sam.modeling": (
        "Sam", "MaskDecoder", "PromptEncoder", "TwoWayTransformer", "ImageEncoderViT", "TinyViT",
    ),
    "mobile_sam.modeling.sam": ("Sam",),
    "mobile_sam.modeling.mask_decoder": ("MaskDecoder", "MLP"),
    "mobile_sam.modeling.prompt_encoder": ("PromptEncoder", "PositionEmbeddingRandom"),
    "mobile_sam.modeling.image_encoder": ("ImageEncoderViT",),
    "mobile_sam.modeling.transformer": ("TwoWayTransformer", "TwoWayAttentionBlock", "Attention"),
    "mobile_sam.modeling.common": ("LayerNorm2d", "MLPBlock"),
    "mobile_sam.modeling.tiny_vit_sam": ("TinyViT",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in SEEN_IMPORTS.items() for name in names]
)
def test_an_import_seen_in_the_wild_works(module, name):
    assert callable(getattr(import_module(module), name)) or name == "sam_model_registry"


def test_build_sam_is_sams_function_although_a_module_has_its_name():
    import_module("mobile_sam.build_sam")
    assert callable(import_module("mobile_sam").build_sam)


def test_the_public_names_are_those_of_their_homes():
    import mobile_sam

    for name in mobile_sam.__all__:
        assert getattr(mobile_sam, name) is not None
        assert name in dir(mobile_sam)
    with pytest.raises(
        AttributeError, match=r"module 'mobile_sam' has no attribute 'SamPredicter'; it has .*SamPredictor"
    ):
        _ = mobile_sam.SamPredicter
