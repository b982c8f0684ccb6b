"""Prompts drawn for training: where they lie, and that they depend on seed, picture and epoch alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.masks import encode_rle
from mobile_sam.data.picture_set import PictureSample, SampleError
from mobile_sam.data.records import Instance
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.prompt_targets import make_prompt_targets, stack_prompt_targets

IMAGE_HW = (60, 120)
TEACHER = TrainConfig(objective="coupled", input_side=256, prompts_per_picture=50)
ANNOTATED = TrainConfig(objective="prompted", mask_targets="annotations", input_side=256, prompts_per_picture=4)


def rectangle(x1, y1, x2, y2, image_hw=IMAGE_HW):
    mask = np.zeros(image_hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def sample_of(*masks, key="a", image_hw=IMAGE_HW, crowds=()):
    instances = tuple(
        Instance(str(index), encode_rle(mask), (0.0, 0.0, 1.0, 1.0), 1.0, is_crowd=index in crowds)
        for index, mask in enumerate(masks)
    )
    return PictureSample(key, np.zeros((*image_hw, 3), np.uint8), instances)


def assert_same(prompts, others):
    assert_array_equal(prompts.points_xy, others.points_xy)
    assert_array_equal(prompts.boxes_xyxy, others.boxes_xyxy)
    assert_array_equal(prompts.is_present, others.is_present)
    assert prompts.seed == others.seed


@pytest.mark.parametrize("config", [TEACHER, ANNOTATED], ids=["teacher", "annotations"])
def test_prompts_depend_on_seed_picture_and_epoch_alone(config):
    masks = [rectangle(5, 5, 40, 30), rectangle(50, 20, 110, 50)]
    first = make_prompt_targets(config, sample_of(*masks), 3)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must not matter
    assert_same(make_prompt_targets(config, sample_of(*masks), 3), first)
    for other in (
        make_prompt_targets(config, sample_of(*masks), 4),
        make_prompt_targets(config, sample_of(*masks, key="b"), 3),
        make_prompt_targets(config.with_values({"seed": 1}), sample_of(*masks), 3),
    ):
        assert other.seed != first.seed
        assert not np.array_equal(other.points_xy, first.points_xy)


@pytest.mark.parametrize("image_hw", [(60, 120), (300, 100), (64, 64), (1, 500)])
def test_clicks_for_the_teacher_lie_anywhere_in_the_picture(image_hw):
    prompts = make_prompt_targets(TEACHER, sample_of(image_hw=image_hw), 0)
    height, width = LongSideResize(image_hw, 256).input_hw
    x, y = prompts.points_xy.T
    assert prompts.points_xy.shape == (50, 2)
    assert prompts.is_present.all()
    assert prompts.masks is None
    assert (x >= 0).all()
    assert (x <= width - 1).all()
    assert (y >= 0).all()
    assert (y <= height - 1).all()
    for values, length in ((x, width), (y, height)):  # 50 even draws leave no quarter empty, but for 1 in a million
        assert set(np.minimum(values * 4 // length, 3)) == set(range(4)) or length < 4


def test_annotated_prompts_ask_for_different_objects_by_click_and_box():
    boxes_xyxy = [(4, 2, 44, 22), (50, 0, 120, 30), (0, 30, 40, 60), (60, 36, 100, 56)]
    prompts = make_prompt_targets(ANNOTATED, sample_of(*[rectangle(*box) for box in boxes_xyxy]), 0)
    scale = 256 / 120
    assert prompts.is_present.all()
    assert prompts.masks.shape == (4, 64, 64)
    found = set()
    for (x, y), box_xyxy, mask in zip(prompts.points_xy, prompts.boxes_xyxy, prompts.masks, strict=True):
        of_click = [
            index for index, (x1, y1, x2, y2) in enumerate(boxes_xyxy) if x1 <= x / scale < x2 and y1 <= y / scale < y2
        ]
        assert len(of_click) == 1
        found.update(of_click)
        true_xyxy = np.array(boxes_xyxy[of_click[0]]) * scale
        assert np.abs(box_xyxy - true_xyxy).max() <= 20 / 4 + 1e-4  # 20 px of 1024
        y_on, x_on = np.nonzero(mask)
        grid_xyxy = np.array([x_on.min(), y_on.min(), x_on.max() + 1, y_on.max() + 1]) * 4
        assert np.abs(grid_xyxy - true_xyxy).max() <= 2.2  # an edge within a cell of 4 goes to the nearer side
    assert found == {0, 1, 2, 3}


def test_boxes_are_moved_by_a_tenth_of_their_side():
    """640 boxes of 64 x 16 model pixels: the corners' noise has a deviation of a tenth, cut at 5 px of 256."""
    config = ANNOTATED.with_values({"prompts_per_picture": 1})
    sample = sample_of(rectangle(96, 112, 160, 128, (256, 256)), image_hw=(256, 256))
    noise = np.stack(
        [make_prompt_targets(config, sample, epoch).boxes_xyxy[0] - [96, 112, 160, 128] for epoch in range(640)]
    )
    assert_allclose(noise.mean(axis=0), 0, atol=0.7)
    assert_allclose(noise[:, 1::2].std(axis=0), 1.6, rtol=0.15)
    assert_allclose(np.abs(noise[:, ::2]).max(), 5)
    assert_allclose((np.abs(noise[:, ::2]) == 5).mean(), 0.435, atol=0.06)  # P(|normal| > 5 / 6.4)


def test_boxes_stay_in_the_picture():
    sample = sample_of(rectangle(0, 0, 120, 60))
    for epoch in range(20):
        box_xyxy = make_prompt_targets(ANNOTATED, sample, epoch).boxes_xyxy[0]
        assert (box_xyxy >= 0).all()
        assert (box_xyxy <= [256, 128, 256, 128]).all()


def test_missing_objects_are_not_present():
    prompts = make_prompt_targets(ANNOTATED, sample_of(rectangle(10, 10, 60, 50)), 0)
    assert prompts.is_present.tolist() == [True, False, False, False]
    assert prompts.masks[0].any()
    assert not prompts.masks[1:].any()


def test_more_objects_than_prompts_take_turns():
    masks = [rectangle(10 * index, 10, 10 * index + 10, 50) for index in range(12)]
    config = ANNOTATED.with_values({"prompts_per_picture": 2})
    seen = {
        int(x // (10 * 256 / 120))
        for epoch in range(40)
        for x, _ in make_prompt_targets(config, sample_of(*masks), epoch).points_xy
    }
    assert seen == set(range(12))


def test_crowds_and_specks_are_left_out():
    """A cell is 15/8 px wide: 6 x 6 px fill 3 x 3 cells by more than a half, and 8 x 8 px 4 x 4, just enough."""
    large, speck, small = rectangle(0, 0, 60, 60), rectangle(60, 30, 66, 36), rectangle(60, 0, 68, 8)
    nothing = np.zeros(IMAGE_HW, bool)
    prompts = make_prompt_targets(ANNOTATED, sample_of(large, speck, small, nothing, crowds={0}), 0)
    assert prompts.is_present.tolist() == [True, False, False, False]
    assert prompts.points_xy[0, 1] < 8 * 256 / 120
    assert prompts.points_xy[0, 0] >= 60 * 256 / 120


@pytest.mark.parametrize(
    "masks", [[], [rectangle(3, 3, 5, 5)], [rectangle(0, 0, 60, 60)]], ids=["none", "speck", "crowd"]
)
def test_a_picture_without_a_usable_object_is_refused(masks):
    with pytest.raises(SampleError, match=f"a: none of its {len(masks)} annotated objects") as caught:
        make_prompt_targets(ANNOTATED, sample_of(*masks, crowds={0}), 0)
    assert caught.value.kind == "no usable object"


def test_a_mask_of_another_size_is_refused():
    sample = sample_of(rectangle(0, 0, 30, 30, (120, 60)))
    with pytest.raises(SampleError, match=r"object 0 has a mask of \(120, 60\), the picture is \(60, 120\)") as caught:
        make_prompt_targets(ANNOTATED, sample, 0)
    assert caught.value.kind == "mask of another size"


def test_pictures_stack_to_a_batch():
    masks = [rectangle(5, 5, 40, 30), rectangle(50, 20, 110, 50)]
    pictures = [make_prompt_targets(ANNOTATED, sample_of(*masks, key=key), 0) for key in "ab"]
    batch = stack_prompt_targets(pictures)
    assert batch.points_xy.shape == (2, 4, 2)
    assert batch.boxes_xyxy.dtype == torch.float32
    assert batch.masks.shape == (2, 4, 64, 64)
    assert batch.is_present.dtype == batch.masks.dtype == torch.bool
    assert batch.seeds.tolist() == [pictures[0].seed, pictures[1].seed]
    assert_array_equal(batch.points_xy[1], pictures[1].points_xy)


def test_prompts_for_the_teacher_stack_without_masks():
    batch = stack_prompt_targets([make_prompt_targets(TEACHER, sample_of(key=key), 0) for key in "abc"])
    assert batch.masks is None
    assert batch.is_present.shape == (3, 50)
