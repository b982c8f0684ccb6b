"""The fast decoder against the eager reference, at 1e-4 in the logits."""

import pytest
import torch

from mobile_sam import build_sam_vit_t
from mobile_sam.core.prompts import LABEL_ABSENT
from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
from mobile_sam.modeling.fast_decoder import FastMaskDecoder, MaskTokenDecoder, MaskUpscaler

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["random", "bundled"])
def sam(request):
    if request.param == "bundled":
        return build_sam_vit_t("mobile_sam")
    torch.manual_seed(0)
    grid_hw, channels = (6, 4), 64
    encoder = PromptEncoder(channels, grid_hw, (96, 64), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=4, mlp_dim=48)
    decoder = MaskDecoder(transformer_dim=channels, transformer=transformer)
    return Sam(TinyViT(img_size=64, embed_dims=(8, 16, 16, 16), num_heads=(1, 1, 1, 1)), encoder, decoder).eval()


def reference(sam, features, points, labels, boxes, masks):
    """Logits and IoU of the readable modules."""
    points = None if points is None else (points, labels)
    sparse, dense = sam.prompt_encoder(points, boxes, masks)
    return sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)


def fast(sam, features, coords, labels, masks=None):
    h, w = sam.prompt_encoder.image_embedding_size
    has_mask = torch.ones(len(coords)) if masks is not None else torch.zeros(1)
    masks = masks if masks is not None else torch.zeros(1, 1, 4 * h, 4 * w)
    iou, mask_weights, image_tokens = MaskTokenDecoder(sam)(features, coords, labels, masks, has_mask)
    return MaskUpscaler(sam)(image_tokens, mask_weights), iou


@pytest.fixture(scope="module")
def features(sam, cat_embedding):
    if sam.prompt_encoder.embed_dim == cat_embedding.features.shape[1]:
        return torch.from_numpy(cat_embedding.features)  # the bundled decoder reads a real picture
    torch.manual_seed(1)
    return torch.randn(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)


def random_points(sam, num_prompts, num_points):
    height, width = sam.prompt_encoder.input_image_size
    coords = torch.rand(num_prompts, num_points, 2) * torch.tensor([width, height])
    return coords, torch.randint(0, 2, (num_prompts, num_points)).float()


def two_boxes(sam):
    height, width = sam.prompt_encoder.input_image_size
    shares = torch.tensor([[0.1, 0.05, 0.7, 0.6], [0.2, 0.1, 0.9, 0.5]])  # within the picture, which fills 1 : 0.67
    return shares * torch.tensor([width, height, width, height])


def assert_same(found, expected):
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("num_prompts", "num_points"), [(1, 1), (3, 1), (2, 5)])
@torch.no_grad()
def test_points_with_their_padding_point(sam, features, num_prompts, num_points):
    coords, labels = random_points(sam, num_prompts, num_points)
    padded = torch.cat([coords, torch.zeros(num_prompts, 1, 2)], 1)
    padded_labels = torch.cat([labels, -torch.ones(num_prompts, 1)], 1)
    assert_same(fast(sam, features, padded, padded_labels), reference(sam, features, coords, labels, None, None))


@torch.no_grad()
def test_boxes_as_two_corners(sam, features):
    boxes = two_boxes(sam)
    corner_labels = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    assert_same(
        fast(sam, features, boxes.view(2, 2, 2), corner_labels), reference(sam, features, None, None, boxes, None)
    )


@torch.no_grad()
def test_mask_prompts_of_each_object(sam, features):
    coords, labels = random_points(sam, 2, 3)
    boxes = two_boxes(sam)
    masks = 5 * torch.randn(2, 1, *sam.prompt_encoder.mask_input_size)
    all_coords = torch.cat([coords, boxes.view(2, 2, 2)], 1)
    all_labels = torch.cat([labels, torch.tensor([[2.0, 3.0]]).expand(2, 2)], 1)
    expected = reference(sam, features, coords, labels, boxes, masks)
    assert_same(fast(sam, features, all_coords, all_labels, masks), expected)
    without_masks = reference(sam, features, coords, labels, boxes, None)
    assert (expected[0] - without_masks[0]).abs().max() > 100 * TOLERANCE  # the masks do matter


@torch.no_grad()
def test_absent_points_change_nothing(sam, features):
    coords, labels = random_points(sam, 2, 2)
    filled = torch.cat([coords, 7 * torch.ones(2, 4, 2)], 1)
    filled_labels = torch.cat([labels, torch.full((2, 4), float(LABEL_ABSENT))], 1)
    assert_same(fast(sam, features, filled, filled_labels), fast(sam, features, coords, labels))


@torch.no_grad()
def test_more_padding_points_do_change_the_answer(sam, features):
    """Why absent points have a label of their own: SAM's -1 is a token like any other."""
    coords, labels = random_points(sam, 1, 1)
    one = fast(sam, features, torch.cat([coords, coords], 1), torch.cat([labels, -torch.ones(1, 1)], 1))
    two = fast(sam, features, torch.cat([coords] * 3, 1), torch.cat([labels, -torch.ones(1, 2)], 1))
    assert (one[0] - two[0]).abs().max() > TOLERANCE


@torch.no_grad()
def test_parameters_are_read_on_each_call(features, sam):
    coords, labels = random_points(sam, 1, 2)
    decoder = MaskTokenDecoder(sam)
    h, w = sam.prompt_encoder.image_embedding_size
    feed = (features, coords, labels, torch.zeros(1, 1, 4 * h, 4 * w), torch.zeros(1))
    before, _, _ = decoder(*feed)
    bias = sam.mask_decoder.iou_prediction_head.layers[-1].bias
    bias += 1.0
    try:
        torch.testing.assert_close(decoder(*feed)[0], before + 1.0)
    finally:
        bias -= 1.0


def test_no_parameters_of_its_own(sam):
    own = {id(parameter) for parameter in sam.parameters()}
    assert all(id(parameter) in own for parameter in MaskTokenDecoder(sam).parameters())
    assert all(id(parameter) in own for parameter in MaskUpscaler(sam).parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near(sam, features, dtype):
    coords, labels = random_points(sam, 2, 2)
    exact_logits, exact_iou = fast(sam, features, coords, labels)
    with torch.autocast("cpu", dtype):
        logits, iou = fast(sam, features, coords, labels)
    scale = exact_logits.abs().max()
    assert (logits.float() - exact_logits).abs().mean() < 0.03 * scale
    assert (iou.float() - exact_iou).abs().max() < 0.05 * max(1.0, exact_iou.abs().max())


def decoded_above(sam, features, coords, labels, mask_tokens, min_iou):
    h, w = sam.prompt_encoder.image_embedding_size
    no_mask = torch.zeros(1, 1, 4 * h, 4 * w), torch.zeros(1)
    limit = None if min_iou is None else torch.tensor(min_iou)
    return FastMaskDecoder(sam)(features, coords, labels, *no_mask, mask_tokens, limit)


@pytest.mark.parametrize("mask_tokens", [[1, 2, 3], torch.tensor([3, 0])])
@torch.no_grad()
def test_only_prompts_with_a_mask_that_reaches_the_limit_are_drawn(sam, features, mask_tokens):
    coords, labels = random_points(sam, 6, 2)
    logits, iou, drawn = decoded_above(sam, features, coords, labels, mask_tokens, None)
    assert drawn.tolist() == list(range(6))
    four_logits, four_iou = fast(sam, features, coords, labels)
    assert_same((logits, iou), (four_logits[:, mask_tokens], four_iou[:, mask_tokens]))
    best = iou.amax(dim=1)
    limits = {
        float("-inf"): list(range(6)),
        float(best.sort().values[2:4].mean()): sorted(best.argsort()[3:].tolist()),
        float(best.max()): [int(best.argmax())],
        float(best.max()) + 1: [int(best.argmax())],  # none reaches it, and one is drawn all the same
    }
    for limit, expected in limits.items():
        some_logits, same_iou, drawn = decoded_above(sam, features, coords, labels, mask_tokens, limit)
        assert drawn.tolist() == expected
        assert_same((some_logits, same_iou), (logits[expected], iou))


@torch.no_grad()
def test_prompts_whose_predicted_iou_is_no_number_are_drawn(sam, features):
    coords, labels = random_points(sam, 3, 2)
    bias = sam.mask_decoder.iou_prediction_head.layers[-1].bias
    before = bias.clone()
    bias.fill_(float("nan"))
    try:
        logits, _, drawn = decoded_above(sam, features, coords, labels, [1, 2], 0.5)
    finally:
        bias.copy_(before)
    assert drawn.tolist() == [0, 1, 2]
    assert logits.isfinite().all()
