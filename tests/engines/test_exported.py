"""The engine over exported graphs: what it feeds them, whatever runtime they are for."""

import hashlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import mobile_sam.engines.exported
from mobile_sam import Prompt
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import MissingDependencyError, WeightsError
from mobile_sam.core.geometry import PIXEL_MEAN, PIXEL_STD, LongSideResize
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.engines.exported import ExportedEngine
from mobile_sam.engines.runtimes import open_graph

SIDE, S = 64, 4  # of the model frame, and of its features
RESIZE = LongSideResize((SIDE, SIDE), SIDE)
CLICK, BOX = Prompt.of([[8, 4]]), Prompt.of(box=[1, 2, 30, 40])


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An engine whose graphs only record what they are fed: make(**manifest) -> engine, {role: calls}."""

    def made(num_threads=0, **options):
        names = options.pop("graphs", {"encoder": "encoder.bin", "decoder": "decoder.bin", "joint": "joint.bin"})
        for name in names.values():
            (tmp_path / name).write_bytes(name.encode())
        files = {name: hashlib.sha256(name.encode()).hexdigest() for name in names.values()}
        options = {"input_side": SIDE, "input_hw": (SIDE, SIDE), "graphs": names, "files": files} | options
        ExportManifest("some", options.pop("runtime", "fake"), "fp16", "id", "vit_t", **options).write(tmp_path)
        calls = {}

        def open_fake(runtime, path, *, num_threads, precision):
            calls[path.stem] = []
            calls["opened with"] = (runtime, num_threads, precision)

            def run(inputs):
                calls[path.stem].append(inputs)
                if path.stem == "encoder":
                    return [np.full((1, 256, S, S), len(calls["encoder"]), np.float32)]
                num_prompts = len(inputs[2] if path.stem == "decoder" else inputs[-1])
                logits = np.zeros((num_prompts, 4, SIDE // 4, SIDE // 4), np.float32)
                logits += 10 * np.arange(num_prompts).reshape(-1, 1, 1, 1) + np.arange(4).reshape(-1, 1, 1)
                return [logits, logits[:, :, 0, 0] / 100]

            return run

        monkeypatch.setattr(mobile_sam.engines.exported, "open_graph", open_fake)
        return ExportedEngine(tmp_path, num_threads=num_threads), calls

    return made


@pytest.fixture
def embedding():
    return Embedding(np.zeros((1, 256, S, S), np.float32), (SIDE, SIDE), (SIDE, SIDE), "id")


def batch_of(*prompts):
    return PromptBatch.from_prompts(prompts, RESIZE)


def test_graphs_are_opened_for_the_runtime_with_its_threads_and_precision(make):
    engine, calls = make(num_threads=3)
    assert calls["opened with"] == ("fake", 3, "fp16")
    assert "joint" not in calls  # only when it is needed
    assert (engine.name, engine.precision, engine.model_id, engine.input_side) == ("fake", "fp16", "id", SIDE)


def test_pictures_are_normalised_and_padded_with_zeros(make):
    engine, calls = make()
    image = np.random.default_rng(0).integers(0, 256, (32, SIDE, 3), np.uint8)
    found = engine.encode([image, image])
    assert [one.features[0, 0, 0, 0] for one in found] == [1, 2]
    for (fed,) in calls["encoder"]:
        assert (fed.shape, fed.dtype) == ((1, 3, SIDE, SIDE), np.float32)
        expected = ((image.astype(float) - PIXEL_MEAN) / PIXEL_STD).transpose(2, 0, 1)
        np.testing.assert_allclose(fed[0, :, :32], expected, atol=1e-5)
        assert not fed[0, :, 32:].any()


@pytest.mark.parametrize("size_hw", [(32, 64), (64, 32), (64, 64), (1, 64)])
def test_with_preprocessing_pixels_are_fed_and_how_far_the_picture_reaches(make, size_hw):
    engine, calls = make(has_preprocessing=True)
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    image[:, 0] = 0  # black is a colour, and no padding
    engine.encode([image])
    ((pixels, valid_hw),) = calls["encoder"]
    assert (pixels.shape, pixels.dtype, valid_hw.dtype) == ((SIDE, SIDE, 3), np.uint8, np.float32)
    assert_array_equal(pixels[: size_hw[0], : size_hw[1]], image)
    assert_array_equal(valid_hw, size_hw)


@pytest.mark.parametrize("has_preprocessing", [False, True])
def test_of_one_aspect_ratio_only_that_part_is_fed(make, has_preprocessing):
    engine, calls = make(has_preprocessing=has_preprocessing, input_hw=(48, SIDE))
    engine.encode([np.full((40, SIDE, 3), 200, np.uint8)])
    (fed,) = calls["encoder"]
    assert fed[0].shape == ((48, SIDE, 3) if has_preprocessing else (1, 3, 48, SIDE))
    assert not has_preprocessing or fed[1].tolist() == [40, SIDE]


@pytest.mark.parametrize("has_preprocessing", [False, True])
@pytest.mark.parametrize("value", [0, 200])
def test_a_picture_that_does_not_fit_the_aspect_ratio_is_refused(make, has_preprocessing, value):
    """A black one too: what is cut off is no padding."""
    engine, calls = make(has_preprocessing=has_preprocessing, input_hw=(48, SIDE))
    with pytest.raises(ValueError, match=r"fit into 64 x 48 px \(width x height\).*export with another --input-size"):
        engine.encode([np.full((49, SIDE, 3), value, np.uint8)])
    assert calls["encoder"] == []


def test_masks_are_chosen_by_their_tokens(make, embedding):
    engine, _ = make()
    decoded = engine.decode(embedding, batch_of(CLICK, BOX), (2, 0))
    assert_array_equal(decoded.low_res_logits[:, :, 0, 0], [[2, 0], [12, 10]])
    np.testing.assert_allclose(decoded.iou_predictions, [[0.02, 0.0], [0.12, 0.1]])


def test_fewer_points_than_the_graph_takes_are_filled_up_with_absent_ones(make, embedding):
    engine, calls = make(num_points=6)
    batch = batch_of(CLICK, BOX)
    engine.decode(embedding, batch)
    ((_, coords_xy, labels, mask, has_mask),) = calls["decoder"]
    assert (coords_xy.shape, labels.shape) == ((2, 6, 2), (2, 6))
    assert_array_equal(coords_xy[:, :2], batch.coords_xy)
    assert labels.tolist() == [[1, -1, -10, -10, -10, -10], [2, 3, -10, -10, -10, -10]]
    assert (mask.shape, mask.any(), has_mask.tolist()) == ((1, 1, SIDE // 4, SIDE // 4), False, [0])
    assert {one.dtype for one in (coords_xy, labels, mask, has_mask)} == {np.dtype(np.float32)}


def test_more_points_than_the_graph_takes_are_refused(make, embedding):
    engine, _ = make(num_points=2)
    engine.decode(embedding, batch_of(BOX))
    with pytest.raises(ValueError, match=r"takes 2 points a prompt.*got 3; export with a greater --num-points"):
        engine.decode(embedding, batch_of(Prompt.of([[8, 4]], box=[1, 2, 30, 40])))


@pytest.mark.parametrize(("num_asked", "num_calls"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_prompts_are_filled_up_to_the_number_of_the_graph(make, embedding, num_asked, num_calls):
    engine, calls = make(num_prompts=3)
    prompts = [Prompt.of([[index, 4]]) for index in range(num_asked)]
    decoded = engine.decode(embedding, batch_of(*prompts), (0,))
    assert len(decoded.low_res_logits) == num_asked
    assert len(calls["decoder"]) == num_calls
    assert {len(inputs[1]) for inputs in calls["decoder"]} == {3}
    asked = np.concatenate([inputs[1][:, 0, 0] for inputs in calls["decoder"]])[:num_asked]
    assert_array_equal(asked, np.arange(num_asked))


def test_prompts_with_masks_are_decoded_one_by_one_each_with_its_own(make, embedding):
    engine, calls = make()
    masks = [np.full((SIDE // 4, SIDE // 4), value, np.float32) for value in (1, 2)]
    engine.decode(embedding, batch_of(CLICK, *(Prompt.of(mask=mask) for mask in masks)))
    fed = [(inputs[3][0, 0, 0, 0], inputs[4].tolist()) for inputs in calls["decoder"]]
    assert fed == [(0, [0]), (1, [1]), (2, [1])]


def test_the_joint_graph_goes_from_picture_to_masks(make):
    engine, calls = make(num_points=2, num_prompts=3)
    image = engine.normalise_and_pad(np.zeros((SIDE, SIDE, 3), np.uint8))
    logits, iou = engine.segment_jointly(image, batch_of(CLICK, BOX))
    assert (logits.shape, iou.shape) == ((2, 4, SIDE // 4, SIDE // 4), (2, 4))
    ((pixels, coords_xy, labels),) = calls["joint"]
    assert (pixels.shape, coords_xy.shape, labels.shape) == ((1, 3, SIDE, SIDE), (3, 2, 2), (3, 2))


def test_without_a_joint_graph_it_says_how_to_get_one(make):
    engine, _ = make(graphs={"encoder": "encoder.bin", "decoder": "decoder.bin"})
    with pytest.raises(ValueError, match="has no joint graph; export with --joint"):
        engine.segment_jointly(np.zeros((3, SIDE, SIDE), np.float32), batch_of(CLICK))


@pytest.mark.parametrize("options", [{"runtime": None}, {"graphs": {"encoder": "encoder.bin"}}])
def test_what_no_runtime_runs_is_refused(make, options):
    with pytest.raises(ValueError, match="was exported for some, which does not run here"):
        make(**options)


def test_other_files_than_those_exported_are_refused_before_they_are_opened(make, tmp_path):
    _, calls = make()
    calls.clear()
    (tmp_path / "decoder.bin").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"decoder\.bin is missing or is not what was exported"):
        ExportedEngine(tmp_path)
    assert calls == {}


def test_a_runtime_that_is_missing_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("mobile_sam.engines.runtimes.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"x\.xml runs on openvino, which is not .*pip install openvino"):
        open_graph("openvino", tmp_path / "x.xml")
