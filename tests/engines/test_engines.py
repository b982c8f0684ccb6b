from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from mobile_sam import Prompt, read_image
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import ENCODER_PREFIX, bundled_weights_path, fingerprint_of_file
from mobile_sam.engines.ort import OrtEngine
from mobile_sam.engines.pytorch import TorchEngine

LOGIT_ERROR = 2e-3  # of logits about -20 to 20, between engines in fp32
CLICK, BOX = Prompt.of([[225, 150]]), Prompt.of(box=[60, 20, 390, 290])


@pytest.fixture(scope="module")
def onnx(onnx_predictor):
    return onnx_predictor.engine


@pytest.fixture(scope="module")
def torch_engine(torch_predictor):
    return torch_predictor.engine


def batch_of(prompts, embedding):
    return PromptBatch.from_prompts(prompts, embedding.resize)


def logits_of(engine, embedding, prompts=(CLICK, BOX), mask_tokens=(0, 1, 2, 3)):
    return engine.decode(embedding, batch_of(prompts, embedding), mask_tokens).low_res_logits


def test_engines_agree_on_a_picture(onnx, torch_engine, cat_embedding, torch_cat_embedding):
    """And each decodes what the other encoded: both carry the same model_id."""
    difference = torch_cat_embedding.features - cat_embedding.features
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(cat_embedding.features)
    assert torch_cat_embedding.model_id == cat_embedding.model_id
    expected = logits_of(onnx, cat_embedding)
    assert_allclose(logits_of(torch_engine, cat_embedding), expected, atol=LOGIT_ERROR)
    assert_allclose(logits_of(onnx, torch_cat_embedding), expected, atol=5 * LOGIT_ERROR)


@pytest.fixture(scope="module")
def torch_cat_embedding(torch_predictor, examples):
    return torch_predictor.encode([examples / "chelsea.png"])[0]


def test_onnx_graphs_run_with_the_weights_of_another_file(perturbed, cat_embedding, examples):
    replaced, reference = OrtEngine(perturbed), TorchEngine(perturbed, device="cpu")
    assert (
        replaced.model_id
        == reference.model_id
        == fingerprint_of_file(perturbed, ENCODER_PREFIX)
        != cat_embedding.model_id
    )
    picture = read_image(examples / "chelsea.png")
    (found,), (expected,) = replaced.encode([picture]), reference.encode([picture])
    size = np.linalg.norm(expected.features)
    assert np.linalg.norm(found.features - expected.features) < 1e-4 * size
    assert np.linalg.norm(found.features - cat_embedding.features) > 0.05 * size  # not the bundled encoder

    mask = Prompt.of(mask=logits_of(replaced, expected, [CLICK])[0, 1])
    prompts = [CLICK, BOX, mask]
    decoded = logits_of(replaced, expected, prompts)
    assert_allclose(decoded, logits_of(reference, expected, prompts), atol=LOGIT_ERROR)
    foreign = Embedding(expected.features, expected.image_hw, expected.input_hw, cat_embedding.model_id)
    assert np.abs(decoded - logits_of(OrtEngine(), foreign, prompts)).mean() > 0.1  # not the bundled decoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_decoder.iou_token.weight": None}, "mask_decoder.iou_token.weight is missing, expected F32 .1, 256."),
        ({"mask_decoder.iou_token.weight": np.zeros((1, 128), np.float32)}, r"is F32 \[1, 128\], expected F32"),
        ({"mask_decoder.iou_token.weight": np.zeros((1, 256), np.float16)}, r"fp32: .* is F16 \[1, 256\]"),
    ],
)
def test_weights_of_another_layout_are_refused(tmp_path, change, message):
    tensors = load_file(bundled_weights_path()) | change
    path = tmp_path / "other.safetensors"
    save_file({key: value for key, value in tensors.items() if value is not None}, path)
    with pytest.raises(WeightsError, match=message) as caught:
        OrtEngine(path)
    assert f"{path} does not hold a MobileSAM (vit_t)" in str(caught.value)


def test_missing_and_damaged_weights_are_refused(perturbed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.safetensors"):
        OrtEngine(tmp_path / "nowhere.safetensors")
    cut = tmp_path / "cut.safetensors"
    for kept_bytes, message in ((10, "is not a safetensors file"), (1000, "header does not fit"), (-4, "is truncated")):
        cut.write_bytes(perturbed.read_bytes()[:kept_bytes])
        with pytest.raises(WeightsError, match=message):
            OrtEngine(cut)


@pytest.mark.parametrize("engine_name", ["onnxruntime", "torch"])
def test_pictures_encoded_together_are_encoded_as_alone(engine_name, torch_predictor, cat_embedding, examples):
    engine = OrtEngine() if engine_name == "onnxruntime" else TorchEngine(torch_predictor.model)
    engine.images_at_once = 2
    tall = np.random.default_rng(0).integers(0, 256, (40, 7, 3), np.uint8)
    together = engine.encode([tall, read_image(examples / "chelsea.png")])
    assert [embedding.image_hw for embedding in together] == [(40, 7), (300, 451)]
    assert [embedding.input_hw for embedding in together] == [(1024, 179), (681, 1024)]
    difference = together[1].features - cat_embedding.features
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(cat_embedding.features)
    (alone,) = engine.encode([tall])
    assert np.linalg.norm(together[0].features - alone.features) < 1e-4 * np.linalg.norm(alone.features)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"\(8, 8\) uint8; read it with mobile_sam.read_image"),
        (np.zeros((8, 8, 3)), r"got \(8, 8, 3\) float64"),
        ("cat.png", "got str"),
        (np.zeros((0, 8, 3), np.uint8), "image has no pixels"),
    ],
)
def test_what_is_no_picture_is_not_encoded(onnx, image, message):
    with pytest.raises(ValueError, match=message):
        onnx.encode([image])


def test_nothing_in_nothing_out(onnx, torch_engine, cat_embedding):
    assert onnx.encode([]) == []
    for engine in (onnx, torch_engine):
        decoded = engine.decode(cat_embedding, batch_of([], cat_embedding), mask_tokens=(1, 2, 3))
        assert decoded.low_res_logits.shape == (0, 3, 256, 256)
        assert decoded.iou_predictions.shape == (0, 3)


def test_many_prompts_are_decoded_in_chunks_as_alone(onnx, cat_embedding):
    prompts = [Prompt.of([[20 * i + 10, 100 + i]] * (1 + i % 3), [1, 0, 1][: 1 + i % 3]) for i in range(20)]
    batch = batch_of(prompts, cat_embedding)
    parts = list(onnx.decode_by_parts(cat_embedding, batch, (0,)))
    assert [len(part.iou_predictions) for part in parts] == [onnx.prompts_at_once] * 5
    together = onnx.decode(cat_embedding, batch, (0,))
    for row in (0, 7, 8, 19):
        alone = onnx.decode(cat_embedding, batch_of([prompts[row]], cat_embedding), (0,))
        assert_allclose(together.low_res_logits[row], alone.low_res_logits[0], atol=LOGIT_ERROR)
        assert_allclose(together.iou_predictions[row], alone.iou_predictions[0], atol=1e-5)


def test_mask_tokens_choose_among_the_same_four_masks(onnx, torch_engine, cat_embedding):
    for engine in (onnx, torch_engine):
        four = logits_of(engine, cat_embedding, [CLICK])
        assert_allclose(logits_of(engine, cat_embedding, [CLICK], (2, 0)), four[:, [2, 0]], atol=1e-4)


@pytest.mark.parametrize("engine_name", ["onnxruntime", "torch"])
def test_eight_threads_get_the_answers_of_one(engine_name, torch_predictor, cat_embedding, examples):
    is_onnx = engine_name == "onnxruntime"
    engine = OrtEngine() if is_onnx else TorchEngine(torch_predictor.model)
    picture = read_image(examples / "chelsea.png")
    prompts = [Prompt.of([[50 * index + 20, 150]]) for index in range(8)]

    def encode_and_decode(index):
        encodes = is_onnx and index % 4 == 0
        own = engine.encode([picture])[0] if encodes else cat_embedding
        return own.features, logits_of(engine, own, [prompts[index]], (0,))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(encode_and_decode, range(8)))
    for prompt, (features, logits) in zip(prompts, answers, strict=True):
        assert_allclose(features, cat_embedding.features, atol=1e-4)
        assert_allclose(logits, logits_of(engine, cat_embedding, [prompt], (0,)), atol=LOGIT_ERROR)


def test_an_embedding_of_other_weights_is_not_decoded(onnx, cat_embedding):
    foreign = Embedding(cat_embedding.features, cat_embedding.image_hw, cat_embedding.input_hw, "other")
    with pytest.raises(ValueError, match="made by encoder 'other', the onnxruntime engine runs"):
        onnx.decode(foreign, batch_of([CLICK], foreign))


@pytest.mark.parametrize("content", [b"", b"\x08\x09garbage", None])
def test_a_damaged_graph_is_told_plainly(monkeypatch, tmp_path, content):
    for file in bundled_weights_path().parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    graph = tmp_path / "encoder.onnx"
    whole = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(whole[:1000] if content is None else content)
    monkeypatch.setattr("mobile_sam.engines.ort.bundled_folder", lambda: tmp_path)
    with pytest.raises(
        WeightsError, match=r"encoder\.onnx or its weights are missing or damaged .*; reinstall mobile-sam"
    ):
        OrtEngine()
