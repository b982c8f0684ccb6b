import pytest
import torch
from torch.testing import assert_close

from mobile_sam.modeling import PromptEncoder


def points_and_labels(*labels):
    return torch.tensor([[[10.0 * index + 3.0, 20.0] for index in range(len(labels))]]), torch.tensor([labels])


def test_the_encoder_of_sam_has_6220_parameters():
    with torch.device("meta"):
        encoder = PromptEncoder(256, (64, 64), (1024, 1024), 16)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 6_220
    assert encoder.pe_layer.positional_encoding_gaussian_matrix.shape == (2, 128)


def test_points_without_a_box_get_one_padding_point(prompt_encoder):
    points, labels = points_and_labels(1, 0)
    sparse, dense = prompt_encoder((points, labels), None, None)
    assert sparse.shape == (1, 3, 16)
    assert_close(sparse[0, 2], prompt_encoder.not_a_point_embed.weight[0])
    assert dense.shape == (1, 16, 4, 6)
    assert_close(dense[0, :, 2, 3], prompt_encoder.no_mask_embed.weight[0])


def test_a_padding_point_has_no_position(prompt_encoder):
    points, labels = points_and_labels(-1, -1)
    sparse, _ = prompt_encoder((points, labels), None, None)
    assert_close(sparse[0], prompt_encoder.not_a_point_embed.weight.expand(3, -1))


def test_a_point_is_its_position_plus_its_type(prompt_encoder):
    points, labels = points_and_labels(0, 1)
    sparse, _ = prompt_encoder((points, labels), None, None)
    position = prompt_encoder.pe_layer.forward_with_coords(points + 0.5, (64, 96))
    for index in (0, 1):
        assert_close(sparse[0, index], position[0, index] + prompt_encoder.point_embeddings[index].weight[0])


def test_a_box_is_two_points_labelled_2_and_3(prompt_encoder):
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0], [0.0, 0.0, 95.0, 63.0]])
    as_box, _ = prompt_encoder(None, boxes, None)
    as_points, _ = prompt_encoder((boxes.reshape(2, 2, 2), torch.tensor([[2, 3], [2, 3]])), None, None)
    assert as_box.shape == (2, 2, 16)
    assert_close(as_points[:, :2], as_box)
    assert_close(as_points[:, 2], prompt_encoder.not_a_point_embed.weight.expand(2, -1))


def test_points_with_a_box_get_no_padding_point(prompt_encoder):
    sparse, _ = prompt_encoder(points_and_labels(1, 0), torch.tensor([[3.0, 5.0, 40.0, 60.0]]), None)
    assert sparse.shape == (1, 4, 16)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.uint8, torch.bool])
def test_labels_may_have_any_dtype(prompt_encoder, dtype):
    points, labels = points_and_labels(1, 0)
    expected, _ = prompt_encoder((points, labels), None, None)
    assert_close(prompt_encoder((points, labels.to(dtype)), None, None)[0], expected)


def test_a_mask_becomes_the_dense_embedding(prompt_encoder):
    masks = torch.randn(2, 1, 16, 24)
    sparse, dense = prompt_encoder(None, None, masks)
    assert sparse.shape == (2, 0, 16)
    assert_close(dense, prompt_encoder.mask_downscaling(masks))


def test_no_prompt_is_one_empty_prompt(prompt_encoder):
    sparse, dense = prompt_encoder(None, None, None)
    assert sparse.shape == (1, 0, 16)
    assert dense.shape == (1, 16, 4, 6)


def test_the_dense_position_is_that_of_the_pixel_centres(prompt_encoder):
    dense = prompt_encoder.get_dense_pe()
    centres = torch.tensor([[[16.0 * column + 8.0, 16.0 * row + 8.0] for column in range(6)] for row in range(4)])
    expected = prompt_encoder.pe_layer.forward_with_coords(centres, (64, 96)).permute(2, 0, 1)[None]
    assert_close(dense, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_stay_float32_under_autocast(prompt_encoder, dtype):
    prompt = points_and_labels(1, 0)
    expected, _ = prompt_encoder(prompt, None, None)
    with torch.autocast("cpu", dtype=dtype):
        sparse, _ = prompt_encoder(prompt, None, None)
        assert_close(prompt_encoder.get_dense_pe(), prompt_encoder.get_dense_pe().float(), rtol=0, atol=0)
    assert_close(sparse, expected, rtol=0, atol=0)


def test_half_precision_coordinates_keep_their_half_pixel(prompt_encoder):
    coords = torch.tensor([[[1023.0, 1001.0]]])  # 1023.5 has no float16
    expected, _ = prompt_encoder((coords, torch.ones(1, 1)), None, None)
    assert_close(prompt_encoder((coords.half(), torch.ones(1, 1)), None, None)[0], expected, rtol=0, atol=0)


def test_nothing_is_computed_in_float64(prompt_encoder, float64_trap):
    points, labels = points_and_labels(1, 0)
    with float64_trap:
        prompt_encoder((points, labels), torch.tensor([[3.0, 5.0, 40.0, 60.0]]), torch.randn(1, 1, 16, 24))
        prompt_encoder.get_dense_pe()


def test_every_parameter_can_receive_a_gradient(prompt_encoder):
    masked = prompt_encoder(points_and_labels(0, 1, 2, 3), None, torch.randn(1, 1, 16, 24))
    unmasked = prompt_encoder(None, None, None)
    sum(embedding.square().sum() for embedding in (*masked, *unmasked)).backward()
    assert not [name for name, p in prompt_encoder.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (((torch.zeros(1, 2, 3), torch.zeros(1, 2)), None, None), r"got \(1, 2, 3\)"),
        (((torch.zeros(1, 2, 2), torch.zeros(1, 3)), None, None), r"labels \(P, N\)"),
        (((torch.zeros(2, 1, 2), torch.zeros(2, 1)), torch.zeros(3, 4), None), "same number of prompts"),
        ((None, torch.zeros(3, 5), None), r"boxes must be \(P, 4\)"),
        ((None, None, torch.zeros(1, 1, 24, 16)), r"masks must be \(P, 1, 16, 24\)"),
        ((None, torch.zeros(3, 4), torch.zeros(2, 1, 16, 24)), "same number of prompts"),
    ],
)
def test_prompts_of_wrong_shape_are_refused(prompt_encoder, prompt, message):
    with pytest.raises(ValueError, match=message):
        prompt_encoder(*prompt)
