"""What is trained and how fast: groups, schedule and the average of the weights, each against its formula."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.build_sam import sam_model_registry
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.optimizer import MovingAverage, choose_trained, lr_at, make_optimizer, set_lr
from mobile_sam.modeling import ImageEncoderViT


@pytest.fixture
def student():
    torch.manual_seed(0)
    return sam_model_registry["vit_t_1m"](input_side=64)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor():
    config = TrainConfig(lr=0.5, warmup_steps=10, min_lr_factor=0.1)
    lrs = [lr_at(step, 201, config) for step in range(201)]
    assert_allclose(lrs[:10], [0.05 * (step + 1) for step in range(10)])
    assert_allclose(lrs[9:11], 0.5)  # the last of the warm-up is the peak, as is the first of the cosine
    assert_allclose(lrs[105], 0.5 * (0.1 + 0.9 * 0.5))  # half way between steps 10 and 200
    assert_allclose(lrs[58], 0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * 48 / 190)) / 2))
    assert_allclose(lrs[200], 0.05)
    assert lrs[10:] == sorted(lrs[10:], reverse=True)


def test_warm_up_takes_a_tenth_of_a_short_run_at_most():
    config = TrainConfig(lr=1.0, warmup_steps=500)
    assert_allclose([lr_at(step, 50, config) for step in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert lr_at(5, 50, config) == 1.0
    assert lr_at(6, 50, config) < 1.0


@pytest.mark.parametrize("num_steps", [1, 2, 9, 10])
def test_the_shortest_runs_have_a_learning_rate(num_steps):
    lrs = [lr_at(step, num_steps, TrainConfig(lr=1.0)) for step in range(num_steps)]
    assert lrs[0] == 1.0
    assert all(0 < lr <= 1 for lr in lrs)


@pytest.mark.parametrize(("parts", "trained"), [
    ("encoder", {"image_encoder"}), ("decoder", {"mask_decoder"}), ("all", {"image_encoder", "mask_decoder"}),
])  # fmt: skip
def test_parts_are_trained_and_no_other(student, parts, trained):
    choose_trained(student, parts)
    for name, parameter in student.named_parameters():
        assert parameter.requires_grad == (name.partition(".")[0] in trained), name
    config = TrainConfig(objective="coupled", trains=parts)
    held = [parameter for group in make_optimizer(student, config).param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in student.parameters() if p.requires_grad}
    assert len(held) == len({id(p) for p in held})


def groups_by_name(student, config):
    """Group of each parameter."""
    choose_trained(student, config.parts)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    optimizer = make_optimizer(student, config)
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}, optimizer


def test_a_vits_tables_of_positions_do_not_decay(student):
    student.image_encoder = ImageEncoderViT(img_size=64, embed_dim=8, depth=1, num_heads=1, use_rel_pos=True)
    groups, _ = groups_by_name(student, TrainConfig(weight_decay=0.25))
    tables = [name for name in groups if "pos" in name]
    assert len(tables) == 3
    assert all(groups[name]["weight_decay"] == 0 for name in tables)


def test_only_matrices_and_kernels_decay(student):
    groups, _ = groups_by_name(student, TrainConfig(objective="coupled", weight_decay=0.25))
    modules = dict(student.named_modules())
    for name, group in groups.items():
        module, _, leaf = name.rpartition(".")
        is_kernel = leaf in ("weight", "in_proj_weight") and isinstance(
            modules[module], (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
        )
        assert group["weight_decay"] == (0.25 if is_kernel else 0.0), name
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.25}


def test_lower_blocks_and_the_encoder_learn_slower(student):
    config = TrainConfig(objective="coupled", encoder_lr_factor=0.1, layer_lr_decay=0.5)
    groups, optimizer = groups_by_name(student, config)
    set_lr(optimizer, 2.0)
    depths = student.image_encoder.depths
    num_blocks = sum(depths)
    for name, group in groups.items():
        if name.startswith("mask_decoder") or ".neck." in name:
            expected = 2.0 if name.startswith("mask_decoder") else 0.2
        elif ".patch_embed." in name:
            expected = 0.2 * 0.5 ** (num_blocks - 1)
        elif ".blocks." in name:
            stage, block = int(name.split(".")[2]), int(name.split(".")[4])
            expected = 0.2 * 0.5 ** (num_blocks - 1 - sum(depths[:stage]) - block)
        else:
            continue
        assert_allclose(group["lr"], expected, err_msg=name)


def test_nothing_to_train_is_said(student):
    student.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained"):
        make_optimizer(student, TrainConfig())


def test_the_average_is_the_plain_formula_with_batchnorm(student):
    encoder = student.image_encoder
    average = MovingAverage(encoder, 0.2)
    expected = {name: value.numpy().astype(np.float64) for name, value in encoder.state_dict().items()}
    assert any(name.endswith("running_var") for name in expected)
    generator = torch.Generator().manual_seed(0)
    for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        for value in encoder.state_dict().values():
            value += torch.randn(value.shape, generator=generator) if value.is_floating_point() else 1
        average.update(encoder, step)
        for name, value in encoder.state_dict().items():
            is_float = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value.numpy() if is_float else value.numpy()
    for name, value in average.model.state_dict().items():
        assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_no_averaging_follows_the_model_exactly(student):
    average = MovingAverage(student, 0.0)
    for step in range(3):
        for parameter in student.parameters():
            parameter.data += 0.1
        average.update(student, step)
    for name, value in average.model.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name


def test_the_average_is_a_model_of_its_own(student):
    student.train()
    average = MovingAverage(student, 0.9)
    assert not any(module.training for module in average.model.modules())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    for parameter in student.parameters():
        parameter.data += 1
    assert all(torch.equal(value, before[name]) for name, value in average.model.state_dict().items())
