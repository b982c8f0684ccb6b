import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mobile_sam.build_sam import build_sam_vit_t
from mobile_sam.core.weights import bundled_weights_path
from mobile_sam.modeling import Sam


@pytest.fixture
def sam(make_tiny_vit, randomize, prompt_encoder, mask_decoder):
    """16 channels, images of 64x64 pixels."""
    prompt_encoder.image_embedding_size, prompt_encoder.input_image_size = (4, 4), (64, 64)
    prompt_encoder.mask_input_size = (16, 16)
    return Sam(make_tiny_vit(), prompt_encoder, mask_decoder).eval()


@pytest.fixture(scope="module")
def mobile_sam():
    return build_sam_vit_t(checkpoint=bundled_weights_path())


@pytest.fixture(scope="module")
def disc():
    """A bright disc on a dark ground: image (3, 1024, 1024) and mask (1024, 1024)."""
    y, x = torch.meshgrid(torch.arange(1024), torch.arange(1024), indexing="ij")
    mask = (x - 400) ** 2 + (y - 560) ** 2 < 180**2
    return torch.where(mask, 220.0, 40.0).expand(3, -1, -1), mask


def test_keys_and_shapes_are_those_of_the_official_file(mobile_sam):
    with safe_open(bundled_weights_path(), framework="pt") as file:
        keys = file.keys()
        official = {key: file.get_slice(key).get_shape() for key in keys}
    assert {key: list(tensor.shape) for key, tensor in mobile_sam.state_dict().items()} == official


def test_the_weights_are_9808452_parameters(mobile_sam):
    assert sum(parameter.numel() for parameter in mobile_sam.parameters()) == 9_808_452


def test_attributes_that_programs_for_sam_read_are_there(sam):
    assert sam.mask_threshold == 0.0
    assert sam.image_format == "RGB"
    assert sam.image_encoder.img_size == 64
    assert sam.device == torch.device("cpu")
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_are_normalised_and_then_padded_with_zeros(sam, dtype):
    image = torch.randint(0, 256, (2, 3, 40, 64)).to(dtype)
    prepared = sam.preprocess(image)
    assert prepared.shape == (2, 3, 64, 64)
    assert prepared.dtype == torch.float32
    assert_close(prepared[1, 0, 5, 7], (image[1, 0, 5, 7].float() - 123.675) / 58.395)
    assert (prepared[:, :, 40:] == 0).all()
    assert_close(sam.preprocess(image[0]), prepared[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 65, 64), "65x64"),
        ((3, 64, 300), "resize its long side to 64"),
        ((1, 64, 64), "3, H, W"),
        ((3, 0, 4), "0x4"),
    ],
)
def test_images_that_do_not_fit_are_refused(sam, shape, message):
    with pytest.raises(ValueError, match=message):
        sam.preprocess(torch.zeros(shape))


def test_masks_are_cut_to_the_image_and_resized_to_the_picture(sam):
    logits = torch.full((1, 2, 16, 16), -1.0)
    logits[:, :, :8] = 1.0  # the image fills the upper half, the rest is padding
    masks = sam.postprocess_masks(logits, (32, 64), (100, 200))
    assert masks.shape == (1, 2, 100, 200)
    assert (masks[:, :, :90] == 1.0).all()


def test_forward_answers_each_image_as_the_parts_do(sam):
    records = [
        {
            "image": torch.randint(0, 256, (3, 48, 64)),
            "original_size": (96, 128),
            "point_coords": torch.tensor([[[5.0, 6.0]], [[30.0, 20.0]]]),
            "point_labels": torch.ones(2, 1),
        },
        {
            "image": torch.randint(0, 256, (3, 64, 32)),
            "original_size": (32, 16),
            "boxes": torch.tensor([[2.0, 3.0, 20.0, 40.0]]),
            "mask_inputs": torch.randn(1, 1, 16, 16),
        },
    ]
    answers = sam(records, multimask_output=True)
    assert [tuple(answer["masks"].shape) for answer in answers] == [(2, 3, 96, 128), (1, 3, 32, 16)]
    assert all(answer["masks"].dtype == torch.bool for answer in answers)
    with torch.no_grad():
        embedding = sam.image_encoder(sam.preprocess(records[1]["image"])[None])
        sparse, dense = sam.prompt_encoder(None, records[1]["boxes"], records[1]["mask_inputs"])
        logits, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert_close(answers[1]["low_res_logits"], logits, rtol=1e-4, atol=1e-4)
    assert_close(answers[1]["iou_predictions"], iou, rtol=1e-4, atol=1e-4)
    assert len(sam(records[:1], multimask_output=False)[0]["iou_predictions"][0]) == 1
    assert not answers[0]["low_res_logits"].requires_grad


def test_buffers_for_pixels_are_not_part_of_a_checkpoint(sam):
    assert not [key for key in sam.state_dict() if key.startswith("pixel_") or "idxs" in key]


def test_nothing_is_computed_in_float64(sam, float64_trap):
    record = {
        "image": torch.zeros(3, 64, 48, dtype=torch.uint8),
        "original_size": (128, 96),
        "point_coords": torch.zeros(1, 1, 2),
        "point_labels": torch.ones(1, 1),
    }
    with float64_trap:
        sam([record], multimask_output=True)


def test_the_official_weights_find_a_disc_from_a_click(mobile_sam, disc):
    image, mask = disc
    record = {
        "image": image,
        "original_size": (1024, 1024),
        "point_coords": torch.tensor([[[400.0, 560.0]]]),
        "point_labels": torch.ones(1, 1),
    }
    answer = mobile_sam([record], multimask_output=True)[0]
    found = answer["masks"][0, answer["iou_predictions"][0].argmax()]
    assert (found & mask).sum() / (found | mask).sum() > 0.95


def test_the_official_weights_find_the_disc_under_autocast_to_bfloat16(mobile_sam, disc):
    image, mask = disc
    record = {"image": image, "original_size": (1024, 1024), "boxes": torch.tensor([[215.0, 375.0, 585.0, 745.0]])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = mobile_sam([record], multimask_output=False)[0]
    found = answer["masks"][0, 0]
    assert (found & mask).sum() / (found | mask).sum() > 0.95
