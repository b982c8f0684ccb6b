"""The OpenVINO engine answers as ONNX Runtime does, keeps what was measured of bf16, and says what it cannot do."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file

import mobile_sam.engines.openvino
from mobile_sam import Prompt, read_image
from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import bundled_folder, bundled_weights_path
from mobile_sam.engines.openvino import OpenVinoEngine, cache_folder, compile_settings, native_precisions
from mobile_sam.engines.ort import OrtEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.model_folder import export_model

LOGIT_ERROR, IOU_ERROR = 2e-3, 1e-4  # of logits about -20 to 20, between engines in fp32
SIDE = 256  # of the small model
HAS_BF16 = "bf16" in native_precisions(openvino.Core())
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
CLICK, BOX = Prompt.of([[225, 150]]), Prompt.of(box=[60, 20, 390, 290])
CLICKS = Prompt.of([[225, 150], [20, 20], [300, 200]], [1, 0, 1])


@pytest.fixture(scope="module")
def engine(openvino_predictor):
    return openvino_predictor.engine


@pytest.fixture(scope="module")
def onnx(onnx_predictor):
    return onnx_predictor.engine


@pytest.fixture(scope="module")
def cat(examples):
    return read_image(examples / "chelsea.png")


@pytest.fixture(scope="module")
def small_sam():
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=SIDE).eval()


@pytest.fixture(scope="module")
def small_folder(small_sam, tmp_path_factory):
    return export_model(small_sam, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def small_engine(small_folder):
    return OpenVinoEngine(small_folder)


def batch_of(prompts, embedding):
    return PromptBatch.from_prompts(prompts, embedding.resize)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def iou_of(mask, other):
    return np.count_nonzero(mask & other) / max(1, np.count_nonzero(mask | other))


def test_a_picture_is_encoded_as_by_onnxruntime(engine, cat, cat_embedding):
    (found,) = engine.encode([cat])
    assert relative_error(found.features, cat_embedding.features) < 1e-4
    assert (found.model_id, found.image_hw, found.input_hw) == (
        cat_embedding.model_id, cat_embedding.image_hw, cat_embedding.input_hw,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mask_prompts(onnx, cat_embedding):
    """One of logits, one of the picture's size."""
    logits = onnx.decode(cat_embedding, batch_of([CLICK], cat_embedding), (1,)).low_res_logits[0, 0]
    drawn = np.zeros((300, 451), bool)
    drawn[20:290, 60:390] = True
    return Prompt.of(mask=logits), Prompt.of([[225, 150]], mask=drawn)


@pytest.mark.parametrize("mask_tokens", [(1, 2, 3), (0,), (3, 0)])
@pytest.mark.parametrize(
    ("prompts", "mask_numbers"),
    [
        ([CLICK], ()),
        ([BOX], ()),
        ([CLICKS, BOX, CLICK], ()),
        ([CLICK] * 9, ()),  # more than are taken at once
        ([], (0,)),
        ([CLICKS, BOX], (0, 1)),
        ([CLICK] * 5, (1,)),  # the mask in another part than the first prompts
    ],
)
def test_prompts_of_every_kind_are_answered_as_by_onnxruntime(
    engine, onnx, cat_embedding, mask_prompts, prompts, mask_numbers, mask_tokens
):
    batch = batch_of([*prompts, *(mask_prompts[number] for number in mask_numbers)], cat_embedding)
    found, expected = (one.decode(cat_embedding, batch, mask_tokens) for one in (engine, onnx))
    assert found.low_res_logits.shape == (len(batch), len(mask_tokens), 256, 256)
    assert found.low_res_logits.dtype == found.iou_predictions.dtype == np.float32
    assert_allclose(found.low_res_logits, expected.low_res_logits, atol=LOGIT_ERROR)
    assert_allclose(found.iou_predictions, expected.iou_predictions, atol=IOU_ERROR)


def test_no_prompts_and_no_pictures_give_nothing(engine, cat_embedding):
    assert engine.encode([]) == []
    assert engine.decode(cat_embedding, batch_of([], cat_embedding)).low_res_logits.shape == (0, 3, 256, 256)


def test_each_picture_is_asked_about_itself(engine, onnx, cat_embedding):
    """What is kept of the picture that was asked about last is not taken for another."""
    other = Embedding(cat_embedding.features[:, :, ::-1].copy(), (300, 451), (681, 1024), cat_embedding.model_id)
    for embedding in (cat_embedding, other, cat_embedding):
        batch = batch_of([CLICK], embedding)
        found, expected = (one.decode(embedding, batch).low_res_logits for one in (engine, onnx))
        assert_allclose(found, expected, atol=LOGIT_ERROR)


def test_answers_stay_as_they_were_when_more_is_asked(engine, cat_embedding):
    """Outputs are lent by OpenVINO's buffers; what is handed out is a copy."""
    batches = [batch_of([Prompt.of([[x, 150]])], cat_embedding) for x in (225, 20)]
    first = engine.decode(cat_embedding, batches[0])
    before = first.low_res_logits.copy(), first.iou_predictions.copy()
    engine.decode(cat_embedding, batches[1])
    assert_array_equal(first.low_res_logits, before[0])
    assert_array_equal(first.iou_predictions, before[1])


def test_a_nan_of_predicted_iou_is_no_mask_and_no_crash(tmp_path, cat_embedding):
    tensors = load_file(bundled_weights_path())
    tensors["mask_decoder.iou_prediction_head.layers.2.bias"][2] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    engine = OpenVinoEngine(tmp_path / "nan.safetensors")
    batch = batch_of([CLICK, BOX], cat_embedding)
    (part,) = engine.decode_above(cat_embedding, batch, -100)
    assert_array_equal(part.mask_tokens, [1, 3, 1, 3])
    (part,) = engine.decode_above(cat_embedding, batch, -np.inf)
    assert_array_equal(part.mask_tokens, [1, 2, 3, 1, 2, 3])


def test_an_embedding_of_other_weights_is_not_decoded(engine, cat_embedding):
    foreign = Embedding(cat_embedding.features, cat_embedding.image_hw, cat_embedding.input_hw, "other")
    with pytest.raises(ValueError, match="made by encoder 'other', the openvino engine runs"):
        engine.decode(foreign, batch_of([CLICK], foreign))


@pytest.fixture(scope="module")
def bf16():
    return OpenVinoEngine(precision="bf16")


@needs_bf16
def test_bf16_is_near_fp32_and_not_the_same(bf16, onnx, official):
    image = read_image(official.picture)
    (fast,), (exact,) = bf16.encode([image]), onnx.encode([image])
    assert 1e-4 < relative_error(fast.features, exact.features) < 0.04
    prompts = [Prompt.of(one.get("points"), one.get("labels"), one.get("box")) for one in official.prompts]
    batch = batch_of(prompts, exact)
    found, expected = bf16.decode(fast, batch), onnx.decode(exact, batch)
    best = expected.iou_predictions.argmax(axis=1)
    rows = np.arange(len(prompts))
    pairs = zip(found.low_res_logits[rows, best] > 0, expected.low_res_logits[rows, best] > 0, strict=True)
    assert np.mean([iou_of(*pair) for pair in pairs]) >= 0.98


@needs_bf16
def test_bf16_keeps_where_a_point_lies(bf16, engine):
    """Its 8 bits would round 801 and 802 to the same, so that a click would move by up to 2 pixels."""
    coords_xy = np.array([[[801, 602], [0, 0]], [[802, 602], [0, 0]], [[801, 603], [0, 0]]], np.float32)
    labels = np.array([[1, -1]] * 3, np.float32)
    with bf16._embed.run([coords_xy, labels]) as (found,), engine._embed.run([coords_xy, labels]) as (expected,):
        assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found[1] - found[0]).max() > 1e-3
        assert np.abs(found[2] - found[0]).max() > 1e-3


def test_eight_threads_get_the_answers_of_one(engine, onnx, cat, cat_embedding, mask_prompts):
    prompts = [Prompt.of([[50 * index + 20, 150]]) for index in range(6)] + list(mask_prompts)

    def encode_and_decode(index):
        own = engine.encode([cat])[0] if index % 4 == 0 else cat_embedding
        decoded = [engine.decode(own, batch_of([prompts[index]], own), (0,)) for _ in range(3)]
        return own.features, [one.low_res_logits for one in decoded]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(encode_and_decode, range(8)))
    for prompt, (features, logits) in zip(prompts, answers, strict=True):
        assert relative_error(features, cat_embedding.features) < 1e-4
        expected = onnx.decode(cat_embedding, batch_of([prompt], cat_embedding), (0,)).low_res_logits
        for one in logits:
            assert_allclose(one, expected, atol=5 * LOGIT_ERROR)  # half of them of an embedding of its own


def test_throughput_encodes_pictures_side_by_side_as_alone(small_folder, small_engine, cat):
    engine = OpenVinoEngine(small_folder, hint="throughput", num_threads=2)
    assert engine.images_at_once >= 1
    engine.images_at_once = 3
    tall = np.random.default_rng(0).integers(0, 256, (40, 7, 3), np.uint8)
    pictures = [cat, tall, cat[:, ::-1].copy(), cat[:50]]
    for picture, found in zip(pictures, engine.encode(pictures), strict=True):
        (expected,) = small_engine.encode([picture])
        assert (found.image_hw, found.input_hw) == (expected.image_hw, expected.input_hw)
        assert_allclose(found.features, expected.features, atol=1e-4)


def test_the_hint_is_for_the_encoder_and_threads_are_as_told(small_folder):
    engine = OpenVinoEngine(small_folder, hint="throughput", num_threads=1)
    hints = [one._compiled.get_property("PERFORMANCE_HINT") for one in (engine._encoder, engine._judge, engine._draw)]
    assert [str(hint).rpartition(".")[2].rstrip(">") for hint in hints] == ["THROUGHPUT", "LATENCY", "LATENCY"]
    assert engine._encoder._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert engine._judge._compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, r"the openvino engine has no device 'tpu' here; it has auto, cpu"),
        ({"hint": "speed"}, r"hint must be one of latency, throughput, got 'speed'"),
        ({"precision": "fp8"}, r"runs fp32, bf16 and exported int8, got precision='fp8'"),
        ({"precision": "fp16"}, r"runs fp32, bf16 and exported int8, got precision='fp16'"),
        ({"precision": "int8"}, r"exported in fp32: int8 is a file of its own, made by `mobile-sam export --to openv"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(options, message):
    with pytest.raises(ValueError, match=message):
        OpenVinoEngine(**options)


def test_bf16_is_refused_where_the_cpu_has_none(monkeypatch):
    monkeypatch.setattr(mobile_sam.engines.openvino, "native_precisions", lambda core, device="CPU": ["fp32", "int8"])
    with pytest.raises(ValueError, match="this CPU has no bf16 arithmetic; use precision='fp32'"):
        OpenVinoEngine(precision="bf16")


def test_any_device_may_be_left_to_openvino(small_folder, small_engine, cat):
    (found,), (expected,) = (one.encode([cat]) for one in (OpenVinoEngine(small_folder, device="auto"), small_engine))
    assert_allclose(found.features, expected.features, atol=1e-4)


def test_weights_of_another_file_take_the_place_of_the_bundled(perturbed, engine, cat_embedding, cat):
    """Although compiled models of the same structure are in the cache."""
    replaced, reference = OpenVinoEngine(perturbed), OrtEngine(perturbed)
    assert replaced.model_id == reference.model_id != engine.model_id
    (found,), (expected,) = replaced.encode([cat]), reference.encode([cat])
    assert relative_error(found.features, expected.features) < 1e-4
    assert relative_error(found.features, cat_embedding.features) > 0.05  # not the bundled encoder
    mask = Prompt.of(mask=reference.decode(expected, batch_of([CLICK], expected)).low_res_logits[0, 1])
    for prompts in ([CLICKS, BOX], [CLICK, mask]):
        batch = batch_of(prompts, expected)
        logits = replaced.decode(expected, batch).low_res_logits
        assert_allclose(logits, reference.decode(expected, batch).low_res_logits, atol=LOGIT_ERROR)
        foreign = Embedding(expected.features, expected.image_hw, expected.input_hw, engine.model_id)
        assert np.abs(logits - engine.decode(foreign, batch).low_res_logits).mean() > 0.1  # not the bundled decoder
    part = np.random.default_rng(0).standard_normal((1, 3, 48, 112)).astype(np.float32)
    assert_allclose(replaced.encode_part(part), reference.encode_part(part), atol=1e-4)


@pytest.mark.parametrize("key", ["image_encoder.neck.3.bias", "prompt_encoder.no_mask_embed.weight"])
def test_one_changed_value_is_enough_to_be_another_model(tmp_path, key, cat_embedding):
    tensors = load_file(bundled_weights_path())
    tensors[key].flat[-1] += 1
    save_file(tensors, tmp_path / "own.safetensors")
    changed, reference = OpenVinoEngine(tmp_path / "own.safetensors"), OrtEngine(tmp_path / "own.safetensors")
    model_input = np.zeros((1, 3, 1024, 1024), np.float32)
    features = reference.encode_input(model_input)
    assert_allclose(changed.encode_input(model_input), features, atol=1e-4)
    embedding = Embedding(features, (8, 8), (1024, 1024), reference.model_id)
    batch = PromptBatch.from_prompts([Prompt.of([[4, 4]])], embedding.resize)
    found, expected = (one.decode(embedding, batch).low_res_logits for one in (changed, reference))
    assert_allclose(found, expected, atol=LOGIT_ERROR)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere.safetensors", FileNotFoundError, r"no weights at .*nowhere\.safetensors"),
        ("cut.safetensors", WeightsError, "is truncated"),
        ("student.safetensors", WeightsError, r"`mobile-sam distill export .* -o FOLDER` makes a folder"),
    ],
)
def test_missing_and_foreign_weights_are_refused(perturbed, small_folder, tmp_path, name, error, message):
    (tmp_path / "cut.safetensors").write_bytes(perturbed.read_bytes()[:-4])
    shutil.copy(small_folder / "weights.safetensors", tmp_path / "student.safetensors")
    with pytest.raises(error, match=message):
        OpenVinoEngine(tmp_path / name)


def test_a_model_folder_runs_as_its_module_does(small_engine, small_sam, cat):
    module = TorchEngine(small_sam, device="cpu")
    assert (small_engine.input_side, small_engine.model_id) == (SIDE, module.model_id)
    (found,), (expected,) = small_engine.encode([cat]), module.encode([cat])
    assert_allclose(found.features, expected.features, atol=1e-4)
    mask = Prompt.of(mask=np.random.default_rng(0).normal(0, 5, (SIDE // 4, SIDE // 4)))
    for prompts in ([CLICKS, BOX], [CLICK, mask]):
        batch = batch_of(prompts, expected)
        ours, theirs = (one.decode(expected, batch, (0, 1, 2, 3)) for one in (small_engine, module))
        assert ours.low_res_logits.shape == (2, 4, 64, 64)
        assert_allclose(ours.low_res_logits, theirs.low_res_logits, atol=LOGIT_ERROR)
        assert_allclose(ours.iou_predictions, theirs.iou_predictions, atol=IOU_ERROR)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_a_cut_graph_of_a_model_folder_is_told_plainly(small_folder, tmp_path, name):
    folder = shutil.copytree(small_folder, tmp_path / "copied")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[len(whole) // 2 :])  # its end, where the weights are named, is still there
    with pytest.raises(WeightsError, match=rf"the graph .*{name} or its weights are missing, damaged"):
        OpenVinoEngine(folder)


def test_a_folder_that_is_not_whole_or_of_two_models_is_refused(small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "copied")
    shutil.copy(bundled_folder() / "decoder.onnx", folder)
    with pytest.raises(WeightsError, match=r"decoder\.onnx was not made for .*weights\.safetensors"):
        OpenVinoEngine(folder)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(WeightsError, match=r"is no model folder: it has no decoder\.onnx"):
        OpenVinoEngine(folder)


@pytest.mark.parametrize("content", [b"", b"\x08\x09garbage", None])
def test_a_damaged_or_missing_graph_of_the_wheel_is_told_plainly(monkeypatch, tmp_path, content):
    if content is not None:
        (tmp_path / "encoder.onnx").write_bytes(content)
    monkeypatch.setattr(mobile_sam.engines.openvino, "bundled_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match=r"encoder\.onnx or its weights are missing, damaged.*reinstall mobile-sam"):
        OpenVinoEngine()


def test_pictures_encoded_unpadded_are_those_of_onnxruntime(engine, onnx, cat):
    wide = cat[:150]
    (found,), (expected,) = (one.encode([wide], unpadded=True) for one in (engine, onnx))
    assert relative_error(found.features, expected.features) < 1e-4
    (padded,) = onnx.encode([wide])
    assert relative_error(found.features, padded.features) > 1e-3  # it is not exact, and says so


def test_a_model_folder_without_the_graph_cannot_encode_unpadded(small_engine, cat):
    for attempt in (
        lambda: small_engine.encode([cat], unpadded=True),
        lambda: small_engine.encode_part(np.zeros((1, 3, 16, 32), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"openvino engine cannot encode unpadded.*256 px"):
            attempt()


def test_a_damaged_graph_for_any_size_is_told_when_it_is_read(monkeypatch, tmp_path):
    for name in ("encoder.onnx", "decoder.onnx", bundled_weights_path().name):
        shutil.copy(bundled_folder() / name, tmp_path)
    (tmp_path / "encoder_any.onnx").write_bytes(b"garbage")
    monkeypatch.setattr(mobile_sam.engines.openvino, "bundled_folder", lambda: tmp_path)
    engine = OpenVinoEngine()
    with pytest.raises(WeightsError, match=r"encoder_any\.onnx or its weights are missing, damaged"):
        engine.encode_part(np.zeros((1, 3, 16, 32), np.float32))


@pytest.fixture
def no_cache_named(monkeypatch):
    for name in ("MOBILE_SAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_cache_named")
@pytest.mark.parametrize(
    ("platform", "variable", "value", "expected"),
    [
        ("linux", None, None, ".cache/mobile_sam/openvino"),
        ("linux", "XDG_CACHE_HOME", "elsewhere", "elsewhere/mobile_sam/openvino"),
        ("linux", "XDG_CACHE_HOME", "", ".cache/mobile_sam/openvino"),
        ("darwin", None, None, "Library/Caches/mobile_sam/openvino"),
        ("win32", None, None, "AppData/Local/mobile_sam/openvino"),
        ("win32", "LOCALAPPDATA", "local", "local/mobile_sam/openvino"),
        ("linux", "MOBILE_SAM_CACHE", "named", "named/openvino"),
        ("win32", "MOBILE_SAM_CACHE", "named", "named/openvino"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches_unless_named(
    monkeypatch, tmp_path, platform, variable, value, expected
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / value) if value else "")
    assert cache_folder() == tmp_path / expected


def test_an_empty_name_is_no_cache(monkeypatch):
    monkeypatch.setenv("MOBILE_SAM_CACHE", "")
    assert cache_folder() is None
    assert "CACHE_DIR" not in compile_settings("fp32")


def test_what_is_compiled_is_kept(monkeypatch, tmp_path, small_folder, small_engine, cat):
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path))
    (expected,) = small_engine.encode([cat])
    written = []
    for _ in range(2):
        (found,) = OpenVinoEngine(small_folder).encode([cat])
        assert_allclose(found.features, expected.features, atol=1e-4)
        written.append(sorted(path.name for path in (tmp_path / "openvino").iterdir()))
    assert written[0]
    assert written[1] == written[0]


@pytest.mark.parametrize("kind", ["a file", "not writable"])
def test_a_cache_that_cannot_be_written_to_is_done_without(monkeypatch, tmp_path, small_folder, cat, kind):
    if kind == "a file":
        (tmp_path / "cache").write_bytes(b"")
    else:  # as for another user; root may write anywhere
        monkeypatch.setattr(mobile_sam.engines.openvino.os, "access", lambda path, mode: False)
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path / "cache"))
    assert "CACHE_DIR" not in compile_settings("fp32")
    assert len(OpenVinoEngine(small_folder).encode([cat])) == 1
    assert kind == "a file" or list((tmp_path / "cache" / "openvino").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells by /proc which cores a thread may use")
def test_an_engine_with_a_part_of_the_cores_binds_no_thread_to_one(examples):
    """Else several of them, in processes of their own, would share the first cores and leave the others idle."""
    code = f"""
import os, threading
from contextlib import suppress
from pathlib import Path
from mobile_sam import read_image
from mobile_sam.engines import make_engine

engine, picture = make_engine("openvino", num_threads=1), read_image({str(examples / "rocket.jpg")!r})
seen, is_over = set(), threading.Event()

def look():  # while it computes, since threads are let go in between
    while not is_over.is_set():
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # of a thread that has just ended
                seen.add(len(os.sched_getaffinity(int(task.name))))

looking = threading.Thread(target=look)
looking.start()
engine.encode([picture] * 3)
is_over.set()
looking.join()
print(seen)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert run.stdout.strip() == str({len(os.sched_getaffinity(0))})
