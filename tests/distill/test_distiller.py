"""The loss of a batch: against its parts written out, for each objective."""

import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill.batches import normalised
from mobile_sam.distill.distiller import Distiller, resized_features
from mobile_sam.distill.loading import Samples, collate
from mobile_sam.distill.models import make_student, open_teacher
from mobile_sam.distill.optimizer import choose_trained


@pytest.fixture
def make(tiny, pictures):
    """Make a distiller and a batch of two pictures of other shapes."""

    def build(**changes):
        config = tiny(**changes)
        teacher = open_teacher(config)
        shards = EmbeddingShards(config.embeddings) if config.embeddings else None
        side = teacher.input_side if shards is None else None
        samples = Samples(open_picture_set(pictures), config, shards, side)
        student = make_student(config)
        choose_trained(student, config.parts)
        items = [samples.read(index, epoch=0) for index in (0, 1)]
        assert items[0].input_hw != items[1].input_hw
        return Distiller(student, config, teacher.sam), collate(items)[0]

    return build


def test_the_decoupled_loss_is_the_mean_squared_error_of_what_is_picture(make):
    distiller, batch = make()
    distiller.eval()
    loss = distiller(batch)
    assert set(loss) == {"loss"}
    student = distiller.student
    expected = []
    for row, (height, width) in enumerate(batch.input_hw.tolist()):
        image = normalised(batch.images[[row]], batch.input_hw[[row]], student.pixel_mean, student.pixel_std)
        found = student.image_encoder(image)[0]
        target = batch.teacher_features[row].float().reshape(256, 4, 2, 4, 2).mean(dim=(2, 4))  # 8 x 8 cells -> 4 x 4
        rows, columns = -(-height // 16), -(-width // 16)
        expected.append((found - target).square()[:, :rows, :columns].mean())
    assert_allclose(loss["loss"].item(), torch.stack(expected).mean().item(), rtol=1e-5)


def test_a_teacher_in_the_loop_says_what_it_says_alone(make, teacher_file, pictures):
    distiller, batch = make(teacher=str(teacher_file), embeddings="")
    teacher = open_teacher(distiller.config).sam
    found = distiller.teacher_features(batch)
    assert found.shape == (2, 256, 4, 4)
    assert not found.requires_grad
    for row, (height, width) in enumerate(batch.teacher_input_hw.tolist()):
        alone = teacher.image_encoder(teacher.preprocess(batch.teacher_images[[row], :, :height, :width]))
        assert_allclose(found[row], resized_features(alone, 4)[0].detach(), atol=1e-5)


def test_features_shrink_by_the_mean_of_their_cells_and_grow_smoothly():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert resized_features(features, 4) is features
    assert resized_features(features, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    grown = resized_features(features, 8)
    assert grown.shape == (1, 1, 8, 8)
    assert_allclose(grown.mean(), features.mean())
    assert grown.max() == 15


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({}, {"image_encoder"}),
        ({"objective": "semi-coupled"}, {"image_encoder"}),
        ({"objective": "coupled"}, {"image_encoder", "mask_decoder"}),
        ({"objective": "prompted"}, {"image_encoder", "mask_decoder"}),
        ({"objective": "prompted", "trains": "decoder"}, {"mask_decoder"}),
    ],
)
def test_gradients_reach_what_is_trained_and_nothing_else(make, changes, moving):
    distiller, batch = make(**changes)
    losses = distiller.train()(batch)
    assert all(value.shape == () and value.isfinite() for value in losses.values())
    losses["loss"].backward()
    reached = {
        name.split(".")[1] for name, p in distiller.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert reached == moving
    teacher = distiller._hidden[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_no_part_of_what_is_saved_or_synchronised(make):
    distiller, _ = make()
    own = {name for name, _ in distiller.named_parameters()}
    assert own == {f"student.{name}" for name, _ in distiller.student.named_parameters()}


@pytest.mark.parametrize(
    ("changes", "is_training"),
    [({}, True), ({"freeze_batchnorm": True}, False), ({"objective": "coupled", "trains": "decoder"}, False)],
)
def test_batchnorm_follows_the_batches_only_where_it_shall(make, changes, is_training):
    distiller, batch = make(**changes)
    distiller.train()
    norms = [module for module in distiller.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    distiller(batch)
    assert all(bool(norm.running_mean.any()) == is_training for norm in norms)
    distiller.eval()
    assert not any(norm.training for norm in norms)


def test_bf16_computes_the_loss_in_fp32(make):
    distiller, batch = make(precision="bf16")
    whole, _ = make()
    losses = [one.eval()(batch)["loss"] for one in (distiller, whole)]
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert losses[0] != losses[1]
    assert_allclose(losses[0].item(), losses[1].item(), rtol=0.02)
