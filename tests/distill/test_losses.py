"""Losses against formulas written out pixel by pixel, and what padding may not do."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.core.masks import mask_iou as reference_iou
from mobile_sam.distill.losses import bce_loss, dice_loss, embedding_mse, focal_loss, mask_iou, valid_cells

MASK_LOSSES = [bce_loss, focal_loss, dice_loss]


def random_masks(seed=0, shape=(2, 3, 6, 7)):
    """Logits, bool targets and a valid region that differs from picture to picture."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    targets = torch.rand(shape, generator=generator) > 0.5
    valid = valid_cells(torch.tensor([[6, 3], [2, 7]]), shape[-2:], 1)[:, None]
    return logits, targets, valid


def pixels_of(logits, targets, valid):
    """Probability and target of each valid pixel, by mask: lists of lists."""
    valid = valid.expand_as(logits)
    return [
        [(1 / (1 + math.exp(-x)), float(t)) for x, t in zip(row[keep].tolist(), wanted[keep].tolist(), strict=True)]
        for row, wanted, keep in zip(logits.flatten(0, 1), targets.flatten(0, 1), valid.flatten(0, 1), strict=True)
    ]


@pytest.mark.parametrize(("height_px", "num_rows"), [(1, 1), (16, 1), (17, 2), (64, 4)])
def test_a_cell_is_valid_if_any_of_it_is_picture(height_px, num_rows):
    valid = valid_cells(torch.tensor([[height_px, 64]]), (4, 4), 16)
    assert valid.shape == (1, 4, 4)
    assert valid[0].sum(dim=0).tolist() == [num_rows] * 4
    assert valid[0, :num_rows].all()


def test_each_picture_has_its_own_valid_cells():
    valid = valid_cells(torch.tensor([[32, 64], [64, 16]]), (4, 4), 16)
    assert valid[0].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    assert valid[1].tolist() == [[True, False, False, False]] * 4


def test_embedding_mse_of_known_differences():
    teacher = torch.zeros(2, 3, 2, 2)
    student = torch.zeros(2, 3, 2, 2)
    student[0] = 2.0  # 4 everywhere
    student[1, 0, 0, 0] = 3.0  # 9 in one of three channels of the one valid cell
    loss = embedding_mse(student, teacher, torch.tensor([[32, 32], [16, 16]]))
    assert loss.shape == ()
    assert_allclose(loss.item(), (4 + 3) / 2)  # the mean of pictures, however many cells each has


def test_embedding_mse_ignores_the_padding():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 4, 4)
    input_hw = torch.tensor([[33, 64], [64, 10]])
    before = embedding_mse(student, teacher, input_hw)
    student[0, :, 3:], student[1, :, :, 1:] = 1e6, -1e6
    assert embedding_mse(student, teacher, input_hw) == before
    student[0, :, 2] += 1  # where only one row of pixels is picture
    assert embedding_mse(student, teacher, input_hw) != before


def test_embedding_mse_is_float32_under_autocast():
    student, teacher = torch.full((1, 1, 1, 1), 1.001), torch.ones(1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = embedding_mse(student, teacher, torch.tensor([[16, 16]]))
    assert loss.dtype == torch.float32
    assert_allclose(loss.item(), 1e-6, rtol=1e-3)  # bfloat16 cannot tell 1.001 from 1


def test_bce_is_the_mean_of_the_log_loss():
    masks = random_masks()
    expected = [-np.mean([math.log(p if t else 1 - p) for p, t in pixels]) for pixels in pixels_of(*masks)]
    assert_allclose(bce_loss(*masks).flatten(), expected, rtol=1e-5)


def test_focal_loss_is_that_of_its_paper():
    masks = random_masks()
    expected = [
        -np.mean([0.25 * (1 - p) ** 2 * math.log(p) if t else 0.75 * p**2 * math.log(1 - p) for p, t in pixels])
        for pixels in pixels_of(*masks)
    ]
    assert_allclose(focal_loss(*masks).flatten(), expected, rtol=1e-5)


def test_dice_loss_is_one_minus_the_smoothed_coefficient():
    masks = random_masks()
    expected = [
        1 - (2 * sum(p * t for p, t in pixels) + 1) / (sum(p for p, _ in pixels) + sum(t for _, t in pixels) + 1)
        for pixels in pixels_of(*masks)
    ]
    assert_allclose(dice_loss(*masks).flatten(), expected, rtol=1e-5)


def test_iou_is_that_of_the_boolean_masks():
    logits, targets, _ = random_masks()
    everything = torch.ones_like(targets)
    for row, target, iou in zip(
        logits.flatten(0, 1), targets.flatten(0, 1), mask_iou(logits, targets, everything).flatten(), strict=True
    ):
        assert_allclose(iou, reference_iou((row > 0).numpy()[None], target.numpy()[None])[0, 0], rtol=1e-6)


def test_two_empty_masks_are_equal():
    nothing = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    assert mask_iou(torch.full((1, 1, 2, 2), -1.0), nothing, ~nothing).tolist() == [[1.0]]
    assert mask_iou(torch.full((1, 1, 2, 2), 1.0), nothing, ~nothing).tolist() == [[0.0]]


@pytest.mark.parametrize("loss", [*MASK_LOSSES, mask_iou])
def test_the_padding_changes_nothing(loss):
    logits, targets, valid = random_masks()
    before = loss(logits, targets, valid)
    outside = ~valid.expand_as(logits)
    assert torch.equal(loss(logits + 50 * outside, targets ^ outside, valid), before)
    assert not torch.equal(loss(-logits, targets, valid), before)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_masks_are_judged_one_by_one_in_float32(loss):
    logits, targets, valid = random_masks()
    together = loss(logits, targets, valid)
    assert together.shape == (2, 3)
    for picture, prompt in np.ndindex(2, 3):
        alone = loss(logits[picture, prompt], targets[picture, prompt], valid[picture, 0])
        assert_allclose(alone, together[picture, prompt], rtol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(logits.bfloat16(), targets, valid).dtype == torch.float32


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_losses_fall_towards_zero_as_the_mask_gets_right_and_sure(loss):
    _, targets, valid = random_masks()
    signs = 2.0 * targets - 1
    wrong, unsure, right, sure = (loss(scale * signs, targets, valid) for scale in (-4, 0, 4, 40))
    assert (wrong > unsure).all()
    assert (unsure > right).all()
    assert (right > sure).all()
    assert_allclose(sure, 0, atol=1e-6)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_targets_may_be_shares(loss):
    logits, targets, valid = random_masks()
    assert torch.equal(loss(logits, targets.float(), valid), loss(logits, targets, valid))
    shares = 0.3 + 0.4 * targets
    assert not torch.equal(loss(logits, shares, valid), loss(logits, targets, valid))


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_huge_logits_have_finite_losses_and_gradients(loss):
    _, targets, valid = random_masks()
    logits = torch.full(targets.shape, 1e4).requires_grad_()
    value = loss(logits, targets, valid).sum()
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
