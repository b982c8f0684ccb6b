"""A model folder: what is in it, and that each engine runs it as the module it was made of."""

import hashlib
import os
import shutil
import stat

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import save_file

from mobile_sam import (
    SAM,
    EverythingConfig,
    Prompt,
    SamAutomaticMaskGenerator,
    SamPredictor,
    build_sam_vit_t,
    read_image,
)
from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import ENCODER_PREFIX, bundled_weights_path, fingerprint_of_file, read_metadata
from mobile_sam.engines import choose_engine, make_engine
from mobile_sam.engines.openvino import OpenVinoEngine
from mobile_sam.engines.ort import OrtEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.model_folder import export_model

FILES = ["decoder.onnx", "encoder.onnx", "weights.safetensors"]
LOGIT_ERROR = 1e-3  # of logits about -60 to 20, between engines in fp32
PROMPTS = [Prompt.of([[225, 150]]), Prompt.of(box=[60, 20, 390, 290]), Prompt.of([[225, 150], [20, 20]], [1, 0])]


def make_student(seed=0):
    """A random encoder, small and for 512 px, with the decoder of the bundled model, so that masks are no noise."""
    torch.manual_seed(seed)
    sam = build_sam_vit_t_1m(input_side=512)
    bundled = build_sam_vit_t("mobile_sam")
    sam.prompt_encoder.load_state_dict(bundled.prompt_encoder.state_dict())
    sam.mask_decoder.load_state_dict(bundled.mask_decoder.state_dict())
    return sam


@pytest.fixture(scope="module")
def student():
    return make_student()


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    return export_model(student, tmp_path_factory.mktemp("exports") / "new" / "student", metadata={"teacher": "me"})


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """Another student of the same layout."""
    return export_model(make_student(seed=1), tmp_path_factory.mktemp("exports") / "other", metadata={"teacher": "me"})


@pytest.fixture(scope="module")
def engines(folder):
    return OrtEngine(folder), OpenVinoEngine(folder), TorchEngine(folder, device="cpu")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def cat(examples):
    return read_image(examples / "chelsea.png")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def iou_of(mask, other):
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0


def test_a_folder_holds_weights_that_tell_what_they_are_and_two_graphs(folder):
    assert sorted(contents(folder)) == FILES
    assert read_metadata(folder / "weights.safetensors") == {
        "format": "pt", "architecture": "vit_t_1m", "input_side": "512", "teacher": "me"
    }  # fmt: skip
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((folder / "encoder.onnx").stat().st_mode)


def test_graphs_hold_no_weights_but_the_name_of_the_file_and_its_sha256(folder, student):
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    keys = set(student.state_dict())
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(folder / name, load_external_data=False)
        assert {entry.key: entry.value for entry in graph.metadata_props} == {"weights_sha256": digest}
        weights = [tensor for tensor in graph.graph.initializer if tensor.name in keys]
        assert weights
        for tensor in weights:
            assert not tensor.raw_data
            assert {entry.key: entry.value for entry in tensor.external_data}["location"] == "weights.safetensors"


def test_exporting_twice_gives_the_same_bytes_and_leaves_the_module_as_it_was(student, folder, tmp_path):
    student.train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    again = export_model(student, tmp_path / "again", metadata={"teacher": "me"})
    assert student.training
    student.eval()
    assert contents(again) == contents(folder)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_each_engine_runs_a_student_of_another_size_as_its_module_does(engines, student, cat):
    module = TorchEngine(student)
    (expected,) = module.encode([cat])
    assert expected.features.shape == (1, 256, 32, 32)
    batch = PromptBatch.from_prompts(PROMPTS, expected.resize)
    logits = module.decode(expected, batch, (0, 1, 2, 3)).low_res_logits
    assert logits.shape == (3, 4, 128, 128)
    for engine in engines:
        assert (engine.input_side, engine.model_id) == (512, module.model_id)
        (embedding,) = engine.encode([cat])
        assert_allclose(embedding.features, expected.features, atol=1e-4)
        assert_allclose(engine.decode(embedding, batch, (0, 1, 2, 3)).low_res_logits, logits, atol=LOGIT_ERROR)


def test_all_engines_give_the_same_masks_of_points_boxes_and_masks(engines, cat):
    answers = []
    for engine in engines:
        predictor = SamPredictor(engine=engine)
        predictor.set_image(cat)
        first = predictor.predict_batch(PROMPTS)
        masks = [Prompt.of(mask=first[0].low_res_logits[0]), Prompt.of(mask=first[1].masks[0])]
        answers.append([*first, *predictor.predict_batch(masks)])
    for *others, expected in zip(*answers, strict=True):
        for found in others:
            assert found.masks.shape == (3, 300, 451)
            assert min(map(iou_of, found.masks, expected.masks)) > 0.999
            assert_allclose(found.iou_predictions, expected.iou_predictions, atol=1e-4)


def test_a_picture_of_exactly_the_input_side_needs_no_resize(engines):
    square = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    for engine in engines:
        (embedding,) = engine.encode([square])
        assert embedding.input_hw == embedding.image_hw == (512, 512)


def test_everything_is_found_by_all_engines_alike(engines, cat):
    config = EverythingConfig(points_per_side=8, pred_iou_thresh=0.3, stability_score_thresh=0.0)
    *others, expected = (SAM(engine).predict(cat, everything=config)[0].masks.data for engine in engines)
    for found in others:
        assert len(found) == len(expected) > 0
        assert min(map(iou_of, found, expected)) > 0.99


def test_an_embedding_for_another_side_is_refused_although_the_weights_are_the_same(engines, folder, cat):
    weights = folder / "weights.safetensors"
    larger = TorchEngine(build_sam_vit_t_1m(weights, input_side=1024))
    (embedding,) = larger.encode([cat])
    assert embedding.features.shape == (1, 256, 64, 64)
    for engine in engines:
        with pytest.raises(ValueError, match=r"made by encoder '\w+', the \w+ engine runs '\w+-512'"):
            engine.decode(embedding, PromptBatch.from_prompts(PROMPTS, embedding.resize))


def test_the_bundled_weights_in_a_folder_answer_as_they_do_in_the_wheel(tmp_path, onnx_predictor, cat_embedding, cat):
    folder = export_model("mobile_sam", tmp_path / "bundled")
    told = read_metadata(folder / "weights.safetensors")
    assert told == {**read_metadata(bundled_weights_path()), "architecture": "vit_t", "input_side": "1024"}
    engine = OrtEngine(folder)
    assert (engine.input_side, engine.model_id) == (1024, fingerprint_of_file(bundled_weights_path(), ENCODER_PREFIX))
    (embedding,) = engine.encode([cat])
    assert_allclose(embedding.features, cat_embedding.features, atol=1e-5)
    batch = PromptBatch.from_prompts(PROMPTS, embedding.resize)
    expected = onnx_predictor.engine.decode(cat_embedding, batch).low_res_logits
    assert_allclose(engine.decode(cat_embedding, batch).low_res_logits, expected, atol=1e-4)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The bundled weights at 512: trained at 1024, they still see, if coordinates and padding are right."""
    path = tmp_path_factory.mktemp("exports") / "half"
    return SamPredictor(export_model(build_sam_vit_t("mobile_sam", input_side=512), path))


def test_the_bundled_weights_at_half_the_side_find_the_same_cat(half, onnx_predictor, cat):
    masks = []
    for predictor in (half, onnx_predictor):
        predictor.set_image(cat)
        masks.append(predictor.predict(box=[60, 20, 450, 299], multimask_output=False)[0][0])
    assert iou_of(*masks) > 0.85


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_everything_at_half_the_side_finds_what_its_points_ask_for(half, examples, mode):
    picture = read_image(examples / "coffee.png")
    half.set_image(picture)
    config = EverythingConfig(mode=mode, points_per_side=8, pred_iou_thresh=0.8)
    records = SamAutomaticMaskGenerator.from_config(config, half.engine).generate(picture)
    assert len(records) > 2
    for record in records:
        of_its_point, _, _ = half.predict(record["point_coords"], [1])
        assert max(iou_of(record["segmentation"], mask) for mask in of_its_point) > 0.99


@pytest.mark.parametrize("name", ["auto", "onnxruntime", "openvino", "torch"])
def test_a_folder_is_a_model_wherever_one_is_named(folder, name):
    engine = make_engine(name, str(folder))
    assert engine.name == (choose_engine(folder)[0] if name == "auto" else name)
    assert SamPredictor(folder, engine=name).engine.model_id == SAM(folder, engine=name).engine.model_id


def test_a_checkpoint_of_a_student_is_exported_as_the_module_is(student, folder, tmp_path):
    checkpoint = tmp_path / "student.safetensors"
    save_sam(student, checkpoint, name="vit_t_1m", metadata={"teacher": "me"})
    assert contents(export_model(checkpoint, tmp_path / "from file")) == contents(folder)
    assert contents(export_model(folder, tmp_path / "from folder")) == contents(folder)


def test_the_engine_without_torch_says_how_to_export_a_student(folder, student, tmp_path):
    students = {"of another width": folder / "weights.safetensors", "for another side": tmp_path / "half.safetensors"}
    save_sam(build_sam_vit_t("mobile_sam", input_side=512), students["for another side"], name="vit_t")
    for file in students.values():
        with pytest.raises(WeightsError, match=r"`mobile-sam distill export .* -o FOLDER` makes a folder"):
            OrtEngine(file)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_is_not_whole_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(WeightsError, match=f"copied is no model folder: it has no {name}; make it again with"):
        OrtEngine(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_put_together_of_two_models_is_refused(copied, other_folder, name):
    shutil.copy(other_folder / name, copied)
    with pytest.raises(
        WeightsError, match=r"\.onnx was not made for .*weights\.safetensors, or one of them is damaged"
    ):
        OrtEngine(copied)


def test_weights_with_a_flipped_byte_are_refused(copied):
    path = copied / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"was not made for .*, or one of them is damaged; make it again"):
        OrtEngine(copied)


def test_a_cut_graph_and_cut_weights_are_told_apart(copied):
    graph, weights = copied / "decoder.onnx", copied / "weights.safetensors"
    whole = graph.read_bytes()
    graph.write_bytes(whole[len(whole) // 2 :])  # its end, where the weights are named, is still there
    with pytest.raises(WeightsError, match=r"decoder\.onnx or its weights are .* damaged .*; export the model again"):
        OrtEngine(copied)
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="is truncated"):
        OrtEngine(copied)


@pytest.mark.parametrize("name", ["auto", "torch"])
def test_a_folder_without_a_model_is_refused_by_each_engine(tmp_path, name):
    with pytest.raises(ValueError, match=r"is no model folder|is not a file but a folder"):
        make_engine(name, tmp_path)


def test_other_files_are_never_replaced(student, folder, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"it holds other files \(notes.txt\); name a new folder"):
        export_model(student, tmp_path / "student")
    with pytest.raises(NotADirectoryError, match="it is a file; name a folder"):
        export_model(student, tmp_path / "student" / "notes.txt")
    assert os.listdir(tmp_path / "student") == ["notes.txt"]


def test_an_earlier_export_is_replaced_whole_or_not_at_all(copied, other_folder, monkeypatch):
    before = contents(copied)
    monkeypatch.setattr("mobile_sam.export.model_folder.export_graphs", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(other_folder, copied)
    assert contents(copied) == before
    assert os.listdir(copied.parent) == ["copied"]
    monkeypatch.undo()
    export_model(other_folder, copied)
    assert contents(copied) == contents(other_folder) != before
    assert os.listdir(copied.parent) == ["copied"]


def test_a_model_that_is_none_of_ours_is_refused(student, tmp_path):
    with pytest.raises(ValueError, match="to be saved as 'vit_t' is vit_t_1m"):
        export_model(student, tmp_path / "folder", name="vit_t")
    path = tmp_path / "half a student.safetensors"
    save_file({key: value for key, value in student.state_dict().items() if "mask_decoder" not in key}, path)
    with pytest.raises(ValueError, match="does not fit vit_t_1m"):
        export_model(path, tmp_path / "folder")
    assert os.listdir(tmp_path) == [path.name]
