"""Losses of masks, with a SAM of 32 channels at 128 px: what is asked, what is trained, what may not matter."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from mobile_sam.core.masks import masks_to_boxes
from mobile_sam.distill import mask_losses as module
from mobile_sam.distill.batches import Batch, PromptTargets
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.mask_losses import (
    MaskPrompts,
    decode,
    error_clicks,
    mask_losses,
    prompt_encoder_for,
    tight_boxes,
)
from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer

SIDE, LOW_RES_SIDE, CHANNELS = 128, 32, 32
INPUT_HW = [[128, 90], [60, 128]]  # a tall picture and a wide one

SEMI = TrainConfig(objective="semi-coupled", input_side=SIDE)
COUPLED = TrainConfig(objective="coupled", input_side=SIDE)
PROMPTED = TrainConfig(objective="prompted", input_side=SIDE, num_clicks=2)
ANNOTATED = TrainConfig(objective="prompted", mask_targets="annotations", input_side=SIDE, num_clicks=2)
CONFIGS = {"semi-coupled": SEMI, "coupled": COUPLED, "prompted": PROMPTED, "annotations": ANNOTATED}
all_objectives = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make_sam(seed=0):
    torch.manual_seed(seed)
    sam = Sam(
        TinyViT(SIDE, embed_dims=(8, 16, 16, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), out_chans=CHANNELS),
        PromptEncoder(CHANNELS, (8, 8), (SIDE, SIDE), 8),
        MaskDecoder(
            transformer_dim=CHANNELS, transformer=TwoWayTransformer(2, CHANNELS, 2, 64), iou_head_hidden_dim=32
        ),
    )
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:  # masks with sure pixels, of the object and beside it
        mlp.layers[-1].weight.data *= 10
    return sam.eval()


def make_batch(seed=0, num_prompts=3):
    generator = torch.Generator().manual_seed(seed)
    input_hw = torch.tensor(INPUT_HW)
    points_xy = torch.rand((2, num_prompts, 2), generator=generator) * (input_hw.flip(1)[:, None] - 1)
    masks = torch.zeros(2, num_prompts, LOW_RES_SIDE, LOW_RES_SIDE, dtype=torch.bool)
    boxes_xyxy = torch.zeros(2, num_prompts, 4)
    for picture, prompt in np.ndindex(2, num_prompts):
        x, y = (points_xy[picture, prompt] / 4).long().tolist()
        masks[picture, prompt, max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = True
        boxes_xyxy[picture, prompt] = torch.tensor([max(x - 4, 0), max(y - 4, 0), x + 5, y + 5]) * 4
    return Batch(
        keys=("a", "b"),
        images=torch.randn(2, 3, SIDE, SIDE, generator=generator),
        input_hw=input_hw,
        teacher_features=torch.randn(2, CHANNELS, 8, 8, generator=generator),
        prompts=PromptTargets(
            points_xy, boxes_xyxy, masks, torch.ones(2, num_prompts, dtype=torch.bool), torch.tensor([5, 6])
        ),
    )


def batch_for(config, **options):
    batch = make_batch(**options)
    if config.mask_targets == "annotations":
        return replace(batch, teacher_features=None)
    return replace(batch, prompts=replace(batch.prompts, masks=None))


def features_like(batch, seed=1):
    return torch.randn(2, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed))


class ScriptedDecoder:
    """Takes the place of `decode`: gives foreseen answers and remembers what was asked."""

    def __init__(self, monkeypatch, logits: Tensor, ious: Tensor):
        self.asked: list[MaskPrompts] = []
        self.logits, self.ious = logits.requires_grad_(), ious.requires_grad_()
        monkeypatch.setattr(module, "decode", self)

    def __call__(self, sam, features, prompts):
        self.asked.append(prompts)
        return self.logits, self.ious


@all_objectives
def test_the_loss_is_a_finite_scalar_with_its_parts(config):
    sam, batch = make_sam(), batch_for(config)
    losses = mask_losses(sam, features_like(batch), batch, sam, config)
    parts = {"bce", "dice"} if config.objective == "prompted" else {"focal", "dice"}
    assert losses.keys() == {"loss", "iou_head", "mask_iou"} | parts
    assert all(value.shape == () and value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    weights = {"bce": 5, "dice": 5} if config.objective == "prompted" else {"focal": 20, "dice": 1}
    expected = sum(weight * losses[name].item() for name, weight in weights.items())
    expected += losses["iou_head"].item() if config.parts != "encoder" else 0
    assert_allclose(losses["loss"].item(), expected, rtol=1e-5)


@pytest.mark.parametrize("config", [SEMI, COUPLED, replace(PROMPTED, box_rate=0.0, num_clicks=0)])
def test_a_student_equal_to_its_teacher_has_iou_1_and_the_least_loss(config):
    sam, batch = make_sam(), batch_for(config, num_prompts=8)
    equal = mask_losses(sam, batch.teacher_features, batch, sam, config)
    other = mask_losses(sam, batch.teacher_features + 0.3 * features_like(batch), batch, sam, config)
    assert equal["mask_iou"] == 1
    assert equal["iou_head"] == 0
    assert other["iou_head"] > 0
    assert 0 < other["mask_iou"] < 1
    for name in {"focal", "dice", "bce"} & equal.keys():
        assert equal[name] < other[name]


@all_objectives
def test_losses_depend_on_the_batch_and_its_seeds_alone(config):
    sam, batch = make_sam(), batch_for(config)
    features = features_like(batch)
    before = mask_losses(sam, features, batch, sam, config)
    torch.manual_seed(99)
    assert mask_losses(sam, features, batch, sam, config) == before
    reseeded = replace(batch, prompts=replace(batch.prompts, seeds=batch.prompts.seeds + 10))
    has_draws = config.objective == "prompted"
    assert (mask_losses(sam, features, reseeded, sam, config)["loss"] != before["loss"]) == has_draws


@all_objectives
def test_prompts_that_are_not_present_change_nothing(config):
    sam, batch = make_sam(), batch_for(config)
    is_present = torch.tensor([[True, True, False], [True, False, False]])
    batch = replace(batch, prompts=replace(batch.prompts, is_present=is_present))
    features = features_like(batch)
    before = mask_losses(sam, features, batch, sam, config)
    points_xy = torch.where(is_present[..., None], batch.prompts.points_xy, 7.0)
    masks = None if batch.prompts.masks is None else batch.prompts.masks ^ ~is_present[..., None, None]
    moved = replace(batch.prompts, points_xy=points_xy, masks=masks)
    assert mask_losses(sam, features, replace(batch, prompts=moved), sam, config) == before


@pytest.mark.parametrize("config", [SEMI, ANNOTATED])
def test_the_mean_is_over_present_prompts(config):
    """Pictures alone, weighted by their prompts, give the loss of both."""
    sam, batch = make_sam(), batch_for(config)
    batch = replace(batch, prompts=replace(batch.prompts, is_present=torch.tensor([[True] * 3, [True, False, False]])))
    features = features_like(batch)
    together = mask_losses(sam, features, batch, sam, config)
    alone = []
    for picture in range(2):
        rows = slice(picture, picture + 1)
        some = PromptTargets(*(value if value is None else value[rows] for value in vars(batch.prompts).values()))
        one = Batch(
            batch.keys[rows],
            batch.images[rows],
            batch.input_hw[rows],
            None if batch.teacher_features is None else batch.teacher_features[rows],
            some,
        )
        alone.append(mask_losses(sam, features[rows], one, sam, config))
    for name, value in together.items():
        assert_allclose(value.item(), (3 * alone[0][name].item() + alone[1][name].item()) / 4, rtol=2e-5)


@pytest.mark.parametrize("parts", ["encoder", "decoder", "all"])
def test_gradients_reach_what_is_trained_and_nothing_else(parts):
    config = replace(PROMPTED, trains=parts)
    student, teacher, batch = make_sam(), make_sam(1), batch_for(PROMPTED)
    student.image_encoder.requires_grad_(parts != "decoder")
    student.mask_decoder.requires_grad_(parts != "encoder")
    student.prompt_encoder.requires_grad_(False)
    batch.teacher_features.requires_grad_()
    mask_losses(student, student.image_encoder(batch.images), batch, teacher, config)["loss"].backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    head = student.mask_decoder.iou_prediction_head.layers[-1].weight
    assert head.requires_grad == (parts != "encoder")
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert batch.teacher_features.grad is None


def test_the_iou_head_is_a_part_of_the_loss_only_where_the_decoder_learns():
    sam, batch = make_sam(), batch_for(COUPLED)
    features = features_like(batch)
    coupled, frozen = (
        mask_losses(sam, features, batch, sam, replace(COUPLED, trains=parts)) for parts in ("all", "encoder")
    )
    assert coupled["iou_head"] == frozen["iou_head"] > 0
    assert_allclose((coupled["loss"] - frozen["loss"]).item(), coupled["iou_head"].item(), rtol=1e-4)


@all_objectives
def test_a_student_learns_a_batch_by_heart(config):
    config = replace(config, num_clicks=1)
    student, teacher, batch = make_sam(), make_sam(1), batch_for(config, num_prompts=1)
    if config.parts == "encoder":
        student.mask_decoder, student.prompt_encoder = teacher.mask_decoder, teacher.prompt_encoder
    trained = student.image_encoder if config.parts == "encoder" else student
    optimizer = torch.optim.AdamW(trained.parameters(), lr=4e-3)
    history = []
    for _ in range(40):
        losses = mask_losses(student, student.image_encoder(batch.images), batch, teacher, config)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["mask_iou"] > history[0]["mask_iou"] + 0.05


@all_objectives
def test_bf16_autocast_gives_float32_losses_near_those_of_float32(config):
    student, teacher, batch = make_sam(), make_sam(1), batch_for(config)
    features = features_like(batch).requires_grad_()
    exact = mask_losses(student, features, batch, teacher, replace(config, num_clicks=0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = mask_losses(student, features, batch, teacher, replace(config, num_clicks=0))
    losses["loss"].backward()
    assert features.grad.isfinite().all()
    assert losses["loss"].dtype == torch.float32
    assert_allclose(losses["loss"].item(), exact["loss"].item(), rtol=0.1)


def test_boxes_and_clicks_in_one_batch_are_answered_as_sam_does():
    sam = make_sam()
    features = torch.randn(2, CHANNELS, 8, 8)
    click_xy, box_xyxy = torch.tensor([[30.0, 40.0]]), torch.tensor([[10.0, 20.0, 90.0, 70.0]])
    more_xy, mask = torch.tensor([[50.0, 60.0]]), torch.randn(2, 1, LOW_RES_SIDE, LOW_RES_SIDE)
    prompts = MaskPrompts(
        torch.stack([torch.cat([click_xy, torch.zeros(1, 2), more_xy]), torch.cat([box_xyxy.view(2, 2), more_xy])]),
        torch.tensor([[1, -1, 0], [2, 3, 0]]),
        mask,
    )
    logits, ious = decode(sam, features, prompts)
    of_click = sam.prompt_encoder((torch.cat([click_xy, more_xy])[None], torch.tensor([[1, 0]])), None, mask[:1])
    of_box = sam.prompt_encoder((more_xy[None], torch.tensor([[0]])), box_xyxy, mask[1:])
    for row, (sparse, dense) in enumerate([of_click, of_box]):
        expected = sam.mask_decoder.predict_masks(
            features[row : row + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
        assert_allclose(logits[row].detach(), expected[0][0].detach(), atol=1e-3)
        assert_allclose(ious[row].detach(), expected[1][0].detach(), atol=1e-5)


def test_a_prompt_encoder_for_another_side_shares_its_weights():
    sam = make_sam()
    small = prompt_encoder_for(sam, 64)
    assert small.get_dense_pe().shape == (1, CHANNELS, 4, 4)
    assert sam.prompt_encoder.get_dense_pe().shape == (1, CHANNELS, 8, 8)
    assert all(one is other for one, other in zip(small.parameters(), sam.prompt_encoder.parameters(), strict=True))
    xy = torch.tensor([[[31.5, 9.5]]])  # + 0.5, the same place in frames of 64 and 128
    labels = torch.ones(1, 1)
    assert_allclose(
        small((xy, labels), None, None)[0].detach(),
        sam.prompt_encoder((2 * xy + 0.5, labels), None, None)[0].detach(),
        atol=1e-5,
    )


def test_a_teacher_of_another_side_makes_targets_for_the_students_map():
    student, batch = make_sam(), batch_for(PROMPTED)
    teacher = make_sam(1)
    teacher.prompt_encoder = prompt_encoder_for(teacher, 1024)
    same_side = mask_losses(student, features_like(batch), batch, make_sam(1), PROMPTED)
    assert mask_losses(student, features_like(batch), batch, teacher, PROMPTED) == same_side


def answers(targets, sure=8.0):
    """Logits (N, 4, h, w) whose token m is `targets[:, m]`."""
    return sure * (2.0 * targets - 1)


def one_click(config, masks):
    """A batch of one picture that fills the frame, with a click for each mask."""
    count = len(masks)
    prompts = PromptTargets(
        torch.full((1, count, 2), 20.0), torch.full((1, count, 4), 7.0), masks[None],
        torch.ones(1, count, dtype=torch.bool), torch.tensor([3]),
    )  # fmt: skip
    if config.mask_targets == "teacher":
        prompts = replace(prompts, masks=None)
    return Batch(
        ("a",), torch.zeros(1, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]]), torch.zeros(1, CHANNELS, 8, 8), prompts
    )


def halves():
    """Four masks, each of more columns than the one before."""
    masks = torch.zeros(4, LOW_RES_SIDE, LOW_RES_SIDE, dtype=torch.bool)
    for index in range(4):
        masks[index, :, : 8 * index + 6] = True
    return masks


def trained_tokens(logits):
    return logits.grad.abs().sum(dim=(-2, -1)).gt(0).tolist()


def test_a_click_on_an_annotated_object_trains_the_nearest_of_three_masks(monkeypatch):
    """Token 0 would be nearest of all, but is no answer to a single click."""
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None].repeat(2, 1, 1, 1)), torch.full((2, 4), 0.5))
    config = replace(ANNOTATED, box_rate=0.0, num_clicks=0)
    losses = mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[[0, 2]]), None, config)
    losses["loss"].backward()
    assert trained_tokens(decoder.logits) == [[False, True, False, False], [False, False, True, False]]
    assert_allclose(losses["mask_iou"].item(), (6 / 14 + 1) / 2, rtol=1e-6)


def test_a_box_trains_the_single_mask(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.full((1, 4), 0.5))
    config = replace(ANNOTATED, box_rate=1.0, num_clicks=0)
    mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[2:3]), None, config)["loss"].backward()
    assert trained_tokens(decoder.logits) == [[True, False, False, False]]
    assert (decoder.ious.grad != 0).tolist() == [[True, False, False, False]]
    assert decoder.asked[0].labels.tolist() == [[2, 3]]
    assert decoder.asked[0].coords_xy.tolist() == [[[7, 7], [7, 7]]]


def test_the_teachers_surest_mask_of_three_is_the_target_of_the_same_token(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.tensor([[0.9, 0.3, 0.8, 0.4]]))
    losses = mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(COUPLED, masks[:1]), object(), COUPLED)
    losses["loss"].backward()
    assert trained_tokens(decoder.logits) == [[False, False, True, False]]
    assert losses["mask_iou"] == 1


def test_the_iou_head_learns_the_iou_of_all_masks_that_answer_for_an_annotated_object(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.tensor([[0.9, 0.3, 0.8, 0.4]]))
    config = replace(ANNOTATED, box_rate=0.0, num_clicks=0)
    losses = mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[2:3]), None, config)
    losses["loss"].backward()
    errors = np.array([0.3 - 14 / 22, 0.8 - 1, 0.4 - 22 / 30])
    assert_allclose(losses["iou_head"].item(), np.mean(errors**2), rtol=1e-5)
    assert_allclose(decoder.ious.grad[0], [0, *(2 * errors / 3)], rtol=1e-5)


def test_the_iou_head_learns_the_teachers_score_times_the_iou_with_its_mask(monkeypatch):
    masks = halves()
    config = replace(PROMPTED, box_rate=1.0, num_clicks=0)  # so that token 0 answers, of 6 columns of the target's 22
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.tensor([[0.9, 0.3, 0.8, 0.4]]))
    losses = mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[:1]), object(), config)
    losses["loss"].backward()
    error = 0.9 - 0.8 * 6 / 22
    assert_allclose(losses["iou_head"].item(), error**2, rtol=1e-5)
    assert_allclose(decoder.ious.grad[0], [2 * error, 0, 0, 0], rtol=1e-5)


def test_corrections_keep_earlier_points_and_give_the_surest_mask_back(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.tensor([[0.9, 0.3, 0.4, 0.8]]))
    config = replace(ANNOTATED, box_rate=0.0, num_clicks=2)
    mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[2:3]), None, config)
    first, second, third = decoder.asked
    assert first.coords_xy.tolist() == [[[20, 20], [0, 0]]]
    assert first.mask_logits is None
    assert third.labels.tolist() == [[1, -1, 0, 1]]  # token 3 has too much, and token 0 too little
    assert torch.equal(second.mask_logits, decoder.logits[:, 3:])  # the surest of tokens 1 to 3
    assert torch.equal(third.mask_logits, decoder.logits[:, :1])  # several points are answered by token 0
    assert not second.mask_logits.requires_grad
    assert torch.equal(third.coords_xy[:, :3], second.coords_xy)
    assert 4 * 22 <= second.coords_xy[0, 2, 0] < 4 * 30
    assert 4 * 6 <= third.coords_xy[0, 3, 0] < 4 * 22


def test_without_an_error_the_click_on_the_object_is_repeated(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[[2, 2, 2, 2]][None]), torch.full((1, 4), 0.5))
    config = replace(ANNOTATED, box_rate=1.0, num_clicks=1)
    mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[2:3]), None, config)
    assert decoder.asked[1].coords_xy[0, 2].tolist() == [20, 20]
    assert decoder.asked[1].labels.tolist() == [[2, 3, 1]]


def test_boxes_of_the_teachers_masks_are_tight(monkeypatch):
    masks = halves()
    decoder = ScriptedDecoder(monkeypatch, answers(masks[None]), torch.tensor([[0.9, 0.3, 0.8, 0.4]]))
    config = replace(PROMPTED, box_rate=1.0, num_clicks=0)
    mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks[:1]), object(), config)
    of_teacher, of_student = decoder.asked
    assert of_teacher.labels.tolist() == [[1, -1]]
    assert of_student.labels.tolist() == [[2, 3]]
    assert of_student.coords_xy.tolist() == [[[0, 0], [4 * 22, SIDE]]]


def test_an_empty_mask_of_the_teacher_has_no_box(monkeypatch):
    nothing = torch.zeros(1, 4, LOW_RES_SIDE, LOW_RES_SIDE, dtype=torch.bool)
    decoder = ScriptedDecoder(monkeypatch, answers(nothing), torch.full((1, 4), 0.5))
    config = replace(PROMPTED, box_rate=1.0, num_clicks=1)
    losses = mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, nothing[0, :1]), object(), config)
    assert decoder.asked[-1].labels.tolist() == [[1, -1, 1]]
    assert losses["mask_iou"] == 1


def test_the_share_of_boxes_is_the_configured_one(monkeypatch):
    masks = halves()[[2]].repeat(400, 1, 1)
    decoder = ScriptedDecoder(monkeypatch, answers(masks[:, None].repeat(1, 4, 1, 1)), torch.full((400, 4), 0.5))
    config = replace(ANNOTATED, box_rate=0.25, num_clicks=0)
    mask_losses(None, torch.zeros(1, CHANNELS, 8, 8), one_click(config, masks), None, config)
    assert_allclose((decoder.asked[0].labels[:, 0] == 2).float().mean(), 0.25, atol=0.07)


def test_clicks_hit_every_wrong_valid_pixel_alike_with_its_label():
    masks, targets, valid = torch.zeros(3, 6, 8, dtype=torch.bool)
    valid[:, :7] = True
    targets[1:4, 2:4] = True  # 6 px, of which 4 are missing
    masks[3:5, 2:4] = True  # 2 px too much
    masks[:, 7] = True  # padding
    points_xy, labels, is_wrong = error_clicks(
        masks.expand(12, 6, 8), targets.expand(12, 6, 8), valid.expand(12, 6, 8), torch.arange(12) / 12
    )
    assert is_wrong.all()
    expected = [[x, y, 1] for y in (1, 2) for x in (2, 3)] + [[x, 4, 0] for x in (2, 3)]
    cells = ((points_xy - 1.5) / 4).int()
    assert_array_equal(torch.cat([cells, labels[:, None]], dim=1), np.repeat(expected, 2, axis=0))


def test_equal_masks_have_no_error():
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    _, labels, is_wrong = error_clicks(masks, masks, masks, torch.tensor([0.5]))
    assert labels.tolist() == [1]
    assert not is_wrong.any()


def test_the_last_draw_hits_the_last_wrong_pixel():
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    points_xy, labels, _ = error_clicks(masks, ~masks, ~masks, torch.tensor([1 - 2**-24]))
    assert points_xy.tolist() == [[4 * 255 + 1.5] * 2]
    assert labels.tolist() == [1]


def test_tight_boxes_are_those_of_the_torch_free_package():
    masks = torch.rand(20, 9, 12, generator=torch.Generator().manual_seed(0)) > 0.95
    masks[3] = False
    inclusive = masks_to_boxes(masks.numpy())
    far_edges = inclusive + np.array([0, 0, 1, 1])
    far_edges[3] = 0
    assert_array_equal(tight_boxes(masks), 4 * far_edges)


def test_annotated_pixels_in_the_padding_change_nothing():
    sam, batch = make_sam(), batch_for(ANNOTATED)
    features = features_like(batch)
    before = mask_losses(sam, features, batch, None, ANNOTATED)
    masks = batch.prompts.masks.clone()
    masks[0, :, :, 23:] = True  # 90 px are 22.5 cells
    masks[1, :, 15:] = True
    changed = replace(batch, prompts=replace(batch.prompts, masks=masks))
    assert mask_losses(sam, features, changed, None, ANNOTATED) == before
    masks[0, :, :, 22] ^= True
    assert mask_losses(sam, features, changed, None, ANNOTATED)["loss"] != before["loss"]


def test_what_is_missing_is_said():
    sam, batch = make_sam(), batch_for(SEMI)
    features = features_like(batch)
    with pytest.raises(ValueError, match="losses of masks need prompts"):
        mask_losses(sam, features, replace(batch, prompts=None), sam, SEMI)
    nobody = replace(batch.prompts, is_present=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="losses of masks need prompts"):
        mask_losses(sam, features, replace(batch, prompts=nobody), sam, SEMI)
    with pytest.raises(ValueError, match="pass the teacher"):
        mask_losses(sam, features, batch, None, SEMI)
    with pytest.raises(ValueError, match="pass the teacher"):
        mask_losses(sam, features, replace(batch, teacher_features=None), sam, SEMI)
    with pytest.raises(ValueError, match="no annotated masks"):
        mask_losses(sam, features, batch, None, ANNOTATED)


def test_the_teachers_weights_do_not_change():
    student, teacher, batch = make_sam(), make_sam(1), batch_for(PROMPTED)
    before = copy.deepcopy(teacher.state_dict())
    mask_losses(student, features_like(batch), batch, teacher, PROMPTED)["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
