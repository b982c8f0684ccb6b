"""Encoding without the padding: which part of the square, what fills up the rest, and that every engine agrees."""

import threading

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import load_file, save_file

from mobile_sam import Prompt
from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.core.images import read_image
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import ANY_SIZE_ENCODER_GRAPH, bundled_weights_path
from mobile_sam.engines.base import UNPADDED_MARGIN_PX
from mobile_sam.engines.ort import OrtEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.model_folder import export_model

SIDE = 256  # of the small model


@pytest.fixture
def small_engine():
    torch.manual_seed(0)
    return TorchEngine(build_sam_vit_t_1m(input_side=SIDE).eval(), device="cpu")


@pytest.fixture
def strip():
    """A picture of 2:1 with something everywhere, (64, 128, 3)."""
    return np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)


def encoded_by_the_module(engine, model_input):
    with torch.no_grad():
        return engine.model.image_encoder(torch.from_numpy(model_input)).numpy()


@pytest.mark.parametrize(
    ("input_hw", "margin_px", "part_hw"),
    [
        ((683, 1024), 0, (688, 1024)),
        ((683, 1024), 96, (784, 1024)),
        ((1024, 576), 96, (1024, 672)),
        ((1, 1024), 48, (64, 1024)),
        ((929, 1024), 96, (1024, 1024)),
        ((1024, 1024), 96, (1024, 1024)),
    ],
)
def test_the_part_is_whole_cells_and_the_margin_within_the_square(disc_engine, input_hw, margin_px, part_hw):
    assert disc_engine.part_hw(input_hw, margin_px) == part_hw


def test_the_rest_of_the_embedding_is_that_of_an_empty_picture(small_engine, strip):
    (embedding,) = small_engine.encode([strip], unpadded=True)
    height = SIDE // 2 + UNPADDED_MARGIN_PX
    pixels = embedding.resize.resize_image(strip)
    part = small_engine.normalise_and_pad(pixels)[None, :, :height]
    empty = encoded_by_the_module(small_engine, np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert_allclose(embedding.features[:, :, : height // 16], encoded_by_the_module(small_engine, part), atol=1e-5)
    assert_allclose(embedding.features[:, :, height // 16 :], empty[:, :, height // 16 :], atol=1e-5)
    assert (embedding.image_hw, embedding.input_hw) == ((64, 128), (128, 256))


def test_the_margin_holds_nothing_but_padding(small_engine, strip):
    """So the padded encoding differs beyond it only by what the padding itself becomes."""
    padded, unpadded = (small_engine.encode([strip], unpadded=way)[0].features for way in (False, True))
    assert padded.shape == unpadded.shape
    assert np.abs(padded - unpadded).max() > 1e-4


def test_a_square_is_encoded_exactly(small_engine, strip):
    square = strip[:, :64]
    padded, unpadded = (small_engine.encode([square], unpadded=way)[0].features for way in (False, True))
    assert_array_equal(unpadded, padded)


def test_pictures_of_several_shapes_keep_their_order(small_engine, strip):
    small_engine.images_at_once = 2
    pictures = [strip, strip.transpose(1, 0, 2), strip[:, :64], 255 - strip, strip[:20]]
    together = small_engine.encode(pictures, unpadded=True)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = small_engine.encode([picture], unpadded=True)
        assert found.image_hw == picture.shape[:2]
        assert_allclose(found.features, alone.features, atol=1e-5)


def test_the_empty_picture_is_encoded_once_until_the_weights_change(small_engine, strip, monkeypatch):
    empty_inputs = []

    def spy(model_input, encode=small_engine.encode_input):
        empty_inputs.extend([] if model_input.any() else [model_input])
        return encode(model_input)

    monkeypatch.setattr(small_engine, "encode_input", spy)
    (before,) = small_engine.encode([strip], unpadded=True)
    small_engine.encode([strip, strip[:20]], unpadded=True)
    assert len(empty_inputs) == 1
    with torch.no_grad():
        small_engine.model.image_encoder.neck[-1].bias.add_(1)
    (after,) = small_engine.encode([strip], unpadded=True)
    assert len(empty_inputs) == 2
    assert_allclose(after.features, before.features + 1, atol=1e-5)


def test_an_engine_for_whole_squares_refuses(disc_engine, strip):
    with pytest.raises(ValueError, match=r"disc engine cannot encode unpadded.*leave unpadded out"):
        disc_engine.encode([strip], unpadded=True)
    with pytest.raises(ValueError, match="cannot encode unpadded"):
        disc_engine.encode_part(np.zeros((1, 3, 64, 64), np.float32))


def test_another_encoder_than_tinyvit_refuses(small_engine, strip):
    small_engine.model.image_encoder = torch.nn.Identity()
    small_engine.model.image_encoder.img_size = SIDE
    with pytest.raises(ValueError, match="torch engine cannot encode unpadded"):
        small_engine.encode([strip], unpadded=True)


def test_a_model_folder_without_the_graph_refuses(small_engine, strip, tmp_path):
    folder = export_model(small_engine.model, tmp_path / "model", name="vit_t_1m")
    (folder / ANY_SIZE_ENCODER_GRAPH).unlink(missing_ok=True)
    engine = OrtEngine(folder)
    with pytest.raises(ValueError, match=r"onnxruntime engine cannot encode unpadded.*256 px"):
        engine.encode([strip], unpadded=True)
    engine.encode([strip])


@pytest.mark.parametrize("size_hw", [(48, 1024), (1024, 112), (16, 16)])
def test_onnxruntime_computes_what_the_module_computes(onnx_predictor, torch_predictor, size_hw):
    model_input = np.random.default_rng(0).standard_normal((2, 3, *size_hw)).astype(np.float32)
    found = onnx_predictor.engine.encode_part(model_input)
    assert_allclose(found, encoded_by_the_module(torch_predictor.engine, model_input), atol=1e-4)


def test_the_graph_is_loaded_at_the_first_need_and_once(monkeypatch):
    loaded = []
    make = onnxruntime.InferenceSession

    def spy(path, *arguments, **options):
        loaded.append(path.rpartition("/")[2])
        return make(path, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    engine, model_input = OrtEngine(), np.zeros((1, 3, 16, 16), np.float32)
    assert ANY_SIZE_ENCODER_GRAPH not in loaded
    threads = [threading.Thread(target=engine.encode_part, args=(model_input,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded.count(ANY_SIZE_ENCODER_GRAPH) == 1


def test_other_weights_of_the_same_layout_are_put_into_the_graph(onnx_predictor, tmp_path):
    weights = load_file(bundled_weights_path())
    weights["image_encoder.neck.3.bias"] += 1
    save_file(weights, tmp_path / "own.safetensors")
    model_input = np.zeros((1, 3, 32, 16), np.float32)
    expected = onnx_predictor.engine.encode_part(model_input) + 1
    assert_allclose(OrtEngine(tmp_path / "own.safetensors").encode_part(model_input), expected, atol=1e-4)


def test_masks_are_near_those_of_the_padded_encoding(onnx_predictor, examples):
    engine, picture = onnx_predictor.engine, read_image(examples / "coffee.png")
    masks = []
    for unpadded in (False, True):
        (embedding,) = engine.encode([picture], unpadded=unpadded)
        prompts = PromptBatch.from_prompts([Prompt.of(box=[170, 15, 425, 310])], embedding.resize)
        masks.append(engine.decode(embedding, prompts, (0,)).low_res_logits > 0)
    overlap = np.count_nonzero(masks[0] & masks[1]) / np.count_nonzero(masks[0] | masks[1])
    assert overlap > 0.95
