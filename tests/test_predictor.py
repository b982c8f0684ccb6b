import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mobile_sam import Embedding, Prompt, SamPredictor, read_image
from mobile_sam.core.masks import mask_iou

CLICK_XY, BOX = [225, 150], [60, 20, 390, 290]
HW = (300, 451)


@pytest.fixture(scope="module")
def cat_pixels(examples):
    return read_image(examples / "chelsea.png")


def iou(mask, other):
    return mask_iou(mask[None], other[None])[0, 0]


@pytest.mark.parametrize(("multimask_output", "num_masks"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("return_logits", [False, True])
def test_answers_have_sams_shapes_and_dtypes(cat_predictor, multimask_output, num_masks, return_logits):
    masks, scores, low_res = cat_predictor.predict(
        np.array([CLICK_XY]), np.array([1]), multimask_output=multimask_output, return_logits=return_logits
    )
    assert masks.shape == (num_masks, *HW)
    assert masks.dtype == (np.float32 if return_logits else np.bool_)
    assert (scores.shape, scores.dtype) == ((num_masks,), np.float32)
    assert (low_res.shape, low_res.dtype) == ((num_masks, 256, 256), np.float32)


def test_masks_are_the_logits_above_zero(cat_predictor):
    masks, _, _ = cat_predictor.predict([CLICK_XY], [1])
    logits, _, _ = cat_predictor.predict([CLICK_XY], [1], return_logits=True)
    assert_array_equal(masks, logits > 0)
    assert 0 < masks[0].mean() < 1


def test_multimask_is_the_default_and_positions_are_sams(cat_predictor):
    by_position = cat_predictor.predict(np.array([CLICK_XY]), np.array([1]), np.array(BOX), None, False, True)
    by_name = cat_predictor.predict(
        point_coords=[CLICK_XY], point_labels=[1], box=BOX, mask_input=None, multimask_output=False, return_logits=True
    )
    for found, expected in zip(by_position, by_name, strict=True):
        assert_array_equal(found, expected)
    assert len(cat_predictor.predict(box=np.array(BOX))[0]) == 3


@pytest.mark.parametrize(
    ("coords", "labels", "box"),
    [
        ([CLICK_XY], [1], BOX),
        (tuple(CLICK_XY), 1, tuple(BOX)),
        (np.array([CLICK_XY], np.int16), np.array([1], np.uint8), np.array([BOX], np.int32)),
        (np.array([CLICK_XY], np.float64), np.array([1.0]), np.array(BOX, np.float64)),
        (torch.tensor([CLICK_XY]), torch.tensor([1]), torch.tensor(BOX)),
    ],
)
def test_coordinates_may_be_lists_arrays_or_whole_numbers(cat_predictor, coords, labels, box):
    expected = cat_predictor.predict(np.array([CLICK_XY], np.float32), np.array([1]), np.array(BOX, np.float32))
    for found, wanted in zip(cat_predictor.predict(coords, labels, box), expected, strict=True):
        assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point_coords": [CLICK_XY]}, "point_coords came without point_labels"),
        ({"point_labels": [1]}, "labels came without points"),
        (
            {"point_coords": [[500, 10]], "point_labels": [1]},
            r"point \(500, 10\) lies outside the picture of 451 x 300",
        ),
        ({"box": [BOX, BOX]}, "for several boxes use predict_batch"),
        ({"mask_input": np.zeros((1, 64, 64))}, r"mask logits must be \(256, 256\), got \(64, 64\)"),
        ({"mask_input": np.zeros((10, 10), bool)}, r"must have the picture's size \(300, 451\), got \(10, 10\)"),
    ],
)
def test_a_wrong_prompt_is_refused(cat_predictor, arguments, message):
    with pytest.raises(ValueError, match=message):
        cat_predictor.predict(**arguments)


NAMES = ("features", "original_size", "input_size", "orig_h", "orig_w", "input_h", "input_w")


def test_attributes_follow_the_picture(onnx_predictor, cat_embedding):
    predictor = SamPredictor(engine=onnx_predictor.engine)
    assert not predictor.is_image_set
    assert [getattr(predictor, name) for name in NAMES] == [None] * 7
    predictor.set_embedding(cat_embedding)
    assert predictor.is_image_set
    assert [getattr(predictor, name) for name in NAMES[1:]] == [(300, 451), (681, 1024), 300, 451, 681, 1024]
    assert_array_equal(predictor.features, cat_embedding.features)
    predictor.reset_image()
    assert not predictor.is_image_set
    assert [getattr(predictor, name) for name in NAMES] == [None] * 7


@pytest.mark.parametrize(
    "ask",
    [
        lambda predictor: predictor.predict(box=BOX),
        lambda predictor: predictor.predict_batch([]),
        lambda predictor: predictor.predict_torch(None, None, torch.tensor([BOX])),
        lambda predictor: predictor.get_image_embedding(),
        lambda predictor: predictor.save_embedding("picture.npz"),
    ],
)
def test_nothing_is_answered_before_a_picture_is_set(onnx_predictor, ask):
    with pytest.raises(RuntimeError, match="no picture is set; call set_image"):
        ask(SamPredictor(engine=onnx_predictor.engine))


@pytest.mark.parametrize("form", ["rgb", "bgr", "pil", "path", "str", "rgba", "bgra"])
def test_every_form_of_a_picture_gives_the_same_embedding(disc_engine, cat_pixels, examples, form):
    opaque = np.full((*HW, 1), 255, np.uint8)
    image, image_format = {
        "rgb": (cat_pixels, "RGB"),
        "bgr": (cat_pixels[:, :, ::-1], "BGR"),
        "pil": (Image.fromarray(cat_pixels), "BGR"),  # knows its own order
        "path": (examples / "chelsea.png", "RGB"),
        "str": (str(examples / "chelsea.png"), "BGR"),
        "rgba": (np.dstack([cat_pixels, opaque]), "RGB"),
        "bgra": (np.dstack([cat_pixels[:, :, ::-1], opaque]), "BGR"),
    }[form]
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_image(image, image_format)
    (expected,) = disc_engine.encode([cat_pixels])
    assert predictor.original_size == HW
    assert_array_equal(predictor.features, expected.features)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_a_grey_picture_is_the_same_in_three_channels(disc_engine, cat_pixels, image_format):
    grey = cat_pixels[:, :, 0]
    (expected,) = disc_engine.encode([np.dstack([grey] * 3)])
    for embedding in SamPredictor(engine=disc_engine).encode([grey, grey[..., None]], image_format):
        assert_array_equal(embedding.features, expected.features)


def test_a_picture_set_is_the_one_encoded(cat_predictor, cat_embedding, examples):
    cat_predictor.reset_image()
    cat_predictor.set_image(examples / "chelsea.png")
    assert_allclose(cat_predictor.features, cat_embedding.features, atol=1e-5)


def test_the_order_of_channels_is_rgb_or_bgr_and_a_failure_keeps_the_picture(cat_predictor, cat_pixels, cat_embedding):
    with pytest.raises(ValueError, match="image_format must be one of RGB, BGR, got 'HSV'"):
        cat_predictor.set_image(cat_pixels, "HSV")
    with pytest.raises(ValueError, match=r"use array\.transpose"):
        cat_predictor.set_image(cat_pixels.transpose(2, 0, 1))
    assert cat_predictor.embedding is cat_embedding


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 3000), (3000, 1), (5000, 7000)])
def test_pictures_of_any_size_get_masks_of_their_size(onnx_predictor, size_hw):
    height, width = size_hw
    onnx_predictor.set_image(np.zeros((height, width, 3), np.uint8))
    assert max(onnx_predictor.input_size) == 1024
    assert min(onnx_predictor.input_size) >= 1
    masks, _, _ = onnx_predictor.predict([[width / 2, height / 2]], [1], multimask_output=False)
    assert masks.shape == (1, height, width)
    assert masks.dtype == np.bool_


def test_a_batch_of_ragged_prompts_answers_as_each_alone(cat_predictor):
    logits = cat_predictor.predict(box=BOX)[2][0]
    prompts = [
        Prompt.of([CLICK_XY]),
        Prompt.of([CLICK_XY, [20, 20], [400, 20]], [1, 0, 0], BOX),
        Prompt.of(mask=logits),
        Prompt.of(box=BOX),
    ]
    together = cat_predictor.predict_batch(prompts, multimask_output=False)
    assert len(together) == 4
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = cat_predictor.predict_batch([prompt], multimask_output=False)
        assert_allclose(found.low_res_logits, alone.low_res_logits, atol=2e-3)
        assert_allclose(found.iou_predictions, alone.iou_predictions, atol=1e-4)
        assert iou(found.masks[0], alone.masks[0]) > 0.999
    assert cat_predictor.predict_batch([]) == []


def test_of_several_masks_one_can_be_kept(cat_predictor):
    (three,) = cat_predictor.predict_batch([Prompt.of([CLICK_XY])])
    assert three.iou_predictions[three.best] == three.iou_predictions.max()
    for index in (0, 2, -1):
        one = three.only(index)
        assert_array_equal(one.masks, three.masks[[index]])
        assert_array_equal(one.iou_predictions, three.iou_predictions[[index]])
        assert_array_equal(one.low_res_logits, three.low_res_logits[[index]])
    with pytest.raises(IndexError):
        three.only(3)


def test_a_mask_fed_back_is_kept(onnx_predictor, examples):
    """As SAM's own logits, and as the mask that a person drew, in the picture's size."""
    onnx_predictor.set_image(examples / "astronaut.png")
    box = [20, 10, 340, 510]  # a person, of whom the model is sure; doubtful masks are not kept, in SAM either
    masks, scores, low_res = onnx_predictor.predict(box=box)
    best = int(np.argmax(scores))
    for mask_input in (low_res[best][None], low_res[best], masks[best], masks[best][None]):
        again, _, _ = onnx_predictor.predict(box=box, mask_input=mask_input, multimask_output=False)
        assert iou(again[0], masks[best]) > 0.99


def test_a_drawn_mask_is_kept_where_the_model_doubts(cat_predictor):
    drawn = cat_predictor.predict(box=BOX)[0][1]
    again, _, _ = cat_predictor.predict(box=BOX, mask_input=drawn, multimask_output=False)
    assert iou(again[0], drawn) > 0.9


def test_a_mask_prompt_changes_the_answer(cat_predictor):
    half = np.zeros(HW, bool)
    half[:, :225] = True
    with_half, without = (
        cat_predictor.predict(box=BOX, mask_input=mask, multimask_output=False)[0][0] for mask in (half, None)
    )
    assert iou(with_half, half) > iou(without, half)


def test_an_embedding_outlives_its_predictor(cat_predictor, cat_embedding, tmp_path):
    expected = cat_predictor.predict(box=BOX)
    cat_predictor.save_embedding(tmp_path / "cat.npz")
    other = SamPredictor(engine="onnxruntime")
    other.load_embedding(tmp_path / "cat.npz")
    assert_array_equal(other.embedding.features, cat_embedding.features)
    for found, wanted in zip(other.predict(box=BOX), expected, strict=True):
        assert_allclose(found, wanted, atol=1e-4)


def test_an_embedding_of_other_weights_is_refused_and_the_picture_stays(cat_predictor, cat_embedding):
    foreign = Embedding(cat_embedding.features, HW, (681, 1024), "foreign")
    with pytest.raises(ValueError, match="made by encoder 'foreign'"):
        cat_predictor.set_embedding(foreign)
    assert cat_predictor.embedding is cat_embedding


def test_predictors_may_share_an_engine_but_not_a_picture(cat_predictor):
    other = SamPredictor(engine=cat_predictor.engine)
    assert other.engine is cat_predictor.engine
    assert not other.is_image_set


def test_the_image_embedding_is_of_the_engines_kind(cat_predictor, torch_predictor, cat_embedding):
    assert_array_equal(cat_predictor.get_image_embedding(), cat_embedding.features)
    assert cat_predictor.device == "cpu"
    torch_predictor.set_embedding(cat_embedding)
    features = torch_predictor.get_image_embedding()
    assert isinstance(features, torch.Tensor)
    assert features.device == torch_predictor.device == torch.device("cpu")
    assert_array_equal(features.numpy(), cat_embedding.features)


def test_a_picture_is_set_unpadded_as_the_engine_encodes_it(torch_predictor, monkeypatch, cat_pixels):
    predictor = SamPredictor(engine=torch_predictor.engine)
    asked = []

    def encode(images, *, unpadded=False, encode=predictor.engine.encode):
        asked.append(unpadded)
        return encode([image[:1, :1] for image in images])  # a square, and quick

    monkeypatch.setattr(predictor.engine, "encode", encode)
    predictor.set_image(cat_pixels, unpadded=True)
    predictor.encode([cat_pixels], unpadded=True)
    predictor.set_image(cat_pixels)
    assert asked == [True, True, False]


def test_unpadded_on_an_engine_without_it_leaves_the_set_picture(disc_engine, cat_pixels):
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_image(cat_pixels)
    before = predictor.embedding
    with pytest.raises(ValueError, match="disc engine cannot encode unpadded"):
        predictor.set_image(cat_pixels, unpadded=True)
    assert predictor.embedding is before
