"""Target openvino: files of every option compute what PyTorch does, int8 nearly, and folders load back."""

import numpy as np
import openvino
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import Prompt, SamPredictor, read_image
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import sha256_of_file
from mobile_sam.engines import make_engine
from mobile_sam.engines.openvino import OpenVinoEngine, native_precisions
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export import quantize_openvino
from mobile_sam.export.calibration import encoder_feeds
from mobile_sam.export.modules import EncoderGraph
from mobile_sam.export.quantize_onnx import groups_to_keep
from mobile_sam.export.quantize_openvino import measure_groups, quantized_graphs
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import openvino as target

SIDE = 256  # of tiny_sam
HAS_BF16 = "bf16" in native_precisions(openvino.Core())
CLICK, BOX = Prompt.of([[225, 150]]), Prompt.of(box=[60, 20, 390, 290])


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def iou_of(mask, other):
    return np.count_nonzero(mask & other) / max(1, np.count_nonzero(mask | other))


def read(path):
    return openvino.Core().read_model(str(path))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Write an export with its manifest: (sam, options) -> (folder, what write told)."""

    def write(sam, **options):
        folder, asked = tmp_path_factory.mktemp("openvino"), ExportOptions(**options)
        written = target.write(sam, asked, folder)
        side = sam.image_encoder.img_size
        files = {path.name: sha256_of_file(path) for path in folder.iterdir()}
        ExportManifest(
            "openvino", written.runtime, asked.precision or "fp32", TorchEngine(sam, device="cpu").model_id, "vit_t",
            side, asked.input_hw or (side, side), asked.preprocess, written.num_prompts, written.num_points,
            written.graphs, files,
        ).write(folder)  # fmt: skip
        return folder, written

    return write


@pytest.fixture(scope="module")
def plain(export, tiny_sam):
    return {precision: export(tiny_sam, precision=precision)[0] for precision in ("fp32", "fp16", "bf16")}


@pytest.fixture(scope="module")
def cat(examples):
    return read_image(examples / "chelsea.png")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.1)])
def test_without_options_the_engine_of_openvino_runs_it_as_pytorch_does(plain, tiny_sam, cat, precision, allowed):
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no bf16")
    engine, module = make_engine("auto", plain[precision], num_threads=1), TorchEngine(tiny_sam, device="cpu")
    assert type(engine) is OpenVinoEngine
    assert (engine.precision, engine.model_id, engine.input_side) == (precision, module.model_id, SIDE)
    (found,), (expected,) = engine.encode([cat]), module.encode([cat])
    errors = [relative_error(found.features, expected.features)]
    mask = Prompt.of(mask=np.random.default_rng(0).normal(0, 5, (SIDE // 4, SIDE // 4)))
    for prompts in ([CLICK, BOX], [BOX, mask]):
        batch = PromptBatch.from_prompts(prompts, expected.resize)
        ours, theirs = (one.decode(expected, batch, (0, 1, 2, 3)) for one in (engine, module))
        errors.append(relative_error(ours.low_res_logits, theirs.low_res_logits))
    assert max(errors) < allowed
    assert precision == "fp32" or max(errors) > 1e-5  # else it would be no other precision


@pytest.mark.parametrize("engine_precision", ["fp32", "bf16"])
def test_of_an_export_the_arithmetic_may_be_chosen(plain, engine_precision):
    if engine_precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no bf16")
    assert SamPredictor(plain["fp16"], precision=engine_precision).engine.precision == engine_precision
    with pytest.raises(ValueError, match="precision='int8' was asked for and the model was exported in fp16"):
        OpenVinoEngine(plain["fp16"], precision="int8")


def test_files_in_half_precision_are_half_as_large(plain):
    bytes_of = {
        precision: sum(path.stat().st_size for path in folder.glob("*.bin")) for precision, folder in plain.items()
    }
    assert bytes_of["fp16"] == bytes_of["bf16"] < 0.55 * bytes_of["fp32"]
    assert sorted(path.name for path in plain["fp32"].iterdir()) == [
        "decoder.bin", "decoder.xml", "encoder.bin", "encoder.xml", "export.json",
    ]  # fmt: skip


OPTIONS = [
    {"input_hw": (176, 256), "num_points": 3},
    {"preprocess": True, "num_prompts": 2},
    {"input_hw": (192, 256), "preprocess": True, "joint": True},
    {"joint": True, "num_prompts": 1, "num_points": 6, "precision": "fp16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_with_options_the_graphs_compute_what_their_modules_do(export, export_to, errors_by_role, tiny_sam, options):
    folder, told = export(tiny_sam, **options)
    assert told.runtime == "openvino"
    assert (told.num_prompts, told.num_points) == (options.get("num_prompts"), options.get("num_points"))
    assert set(told.graphs) == {"encoder", "decoder"} | ({"joint"} if "joint" in options else set())
    runner = target.open_runner(folder, num_threads=1)
    assert runner.engine.manifest.graphs == told.graphs
    errors = errors_by_role(runner.engine, tiny_sam, ExportOptions(**options), [CLICK])
    assert max(errors.values()) < (0.02 if "precision" in options else 1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_inputs_have_the_sizes_that_were_asked_for(export, tiny_sam, options):
    folder, _ = export(tiny_sam, **options)
    h, w = options.get("input_hw", (SIDE, SIDE))
    image = read(folder / "encoder.xml").input("image")
    assert image.partial_shape.to_shape() == ([h, w, 3] if "preprocess" in options else [1, 3, h, w])
    assert image.element_type == (openvino.Type.u8 if "preprocess" in options else openvino.Type.f32)
    P, N, _ = read(folder / "decoder.xml").input("point_coords").partial_shape
    assert [P.is_dynamic, N.is_dynamic] == ["num_prompts" not in options, "num_points" not in options]


def test_a_picture_of_the_aspect_ratio_is_segmented_by_the_export(export, tiny_sam, cat):
    folder, _ = export(tiny_sam, input_hw=(176, 256), preprocess=True, num_points=4, num_prompts=2)
    engine = make_engine("auto", folder)
    (found,) = engine.encode([cat])
    fed = TorchEngine(tiny_sam, device="cpu").normalise_and_pad(found.resize.resize_image(cat))[None, :, :176]
    with torch.no_grad():
        expected = EncoderGraph(tiny_sam, (176, 256))(torch.from_numpy(fed)).numpy()
    assert_allclose(found.features, expected, atol=1e-4)
    (answer,) = target.open_runner(folder).engine.decode_by_parts(
        found, PromptBatch.from_prompts([CLICK, BOX], found.resize), (0,)
    )
    assert answer.low_res_logits.shape == (2, 1, 64, 64)
    with pytest.raises(ValueError, match=r"fit into 256 x 176 px"):
        engine.encode([cat.transpose(1, 0, 2)])


@pytest.mark.parametrize("name", ["encoder.bin", "decoder.xml"])
def test_a_changed_file_is_refused(export, tiny_sam, name):
    folder, _ = export(tiny_sam)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is missing"):
        SamPredictor(folder)


def test_other_weights_at_the_same_place_are_not_taken_from_the_cache(tiny_sam, cat, tmp_path):
    """As when an export is made again into the folder of an earlier one."""
    features = []
    for step in range(2):
        if step:
            with torch.no_grad():
                tiny_sam.image_encoder.neck[3].bias.add_(1)
        try:
            written = target.write(tiny_sam, ExportOptions(), tmp_path)
        finally:
            if step:
                with torch.no_grad():
                    tiny_sam.image_encoder.neck[3].bias.sub_(1)
        files = {name: sha256_of_file(tmp_path / name) for name in ("encoder.xml", "encoder.bin")}
        ExportManifest(
            "openvino", written.runtime, "fp32", "id", "vit_t", SIDE, (SIDE, SIDE), graphs=written.graphs, files=files
        ).write(tmp_path)
        features.append(OpenVinoEngine(tmp_path).encode([cat])[0].features)
    assert_allclose(features[1], features[0] + 1, atol=1e-4)


@pytest.fixture(scope="module")
def few_views():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_openvino, "NUM_VIEWS", 4)
        patch.setattr(quantize_openvino, "NUM_MEASURED", 1)
        yield


@pytest.fixture(scope="module")
def searched(few_views, tiny_sam):
    """The small model, which has no list of its own: its graphs, and what was found."""
    before = {name: value.clone() for name, value in tiny_sam.state_dict().items()}
    graphs, facts = quantized_graphs(tiny_sam, ExportOptions(precision="int8", joint=True, num_points=2))
    assert all(torch.equal(value, before[name]) for name, value in tiny_sam.state_dict().items())
    return graphs, facts


def types_of(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def test_a_model_without_a_list_of_its_own_is_searched_and_the_report_says_so(searched):
    _, facts = searched
    errors, kept = facts["embedding_error_by_group"], facts["kept_in_higher_precision"]
    assert facts["num_calibration_views"] == 4
    assert {"patch_embed/seq", "layers.0/blocks.0", "layers.1/blocks.0"} <= set(errors)
    assert all(error >= 0 for error in errors.values())
    assert max(errors.values()) > 0
    assert tuple(kept) == groups_to_keep(errors, quantize_openvino.ERROR_BUDGET)


def has_int8_weights(node):
    """Whether what it multiplies by is an int8 constant, scaled, reshaped and the like on the way."""
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize"):
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and source.output(0).get_element_type() == openvino.Type.i8


def test_of_the_encoder_what_is_not_kept_is_quantized_and_of_the_decoder_nothing(searched):
    graphs, facts = searched
    assert set(graphs) == {"encoder", "decoder", "joint"}
    assert "FakeQuantize" not in types_of(graphs["decoder"])
    for role in ("encoder", "joint"):
        quantized = {
            quantize_openvino._group_of(node)
            for node in graphs[role].get_ordered_ops()
            if node.get_type_name() in ("Convolution", "MatMul") and has_int8_weights(node)
        }
        assert {"layers.0/blocks.0", "layers.1/blocks.0", "neck/neck.0"} & quantized
        assert not quantized & set(facts["kept_in_higher_precision"])


def test_a_joint_graph_is_the_encoder_and_the_decoder(searched, tiny_sam):
    graphs, _ = searched
    compiled = {
        role: openvino.Core().compile_model(one, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for role, one in graphs.items()
    }
    ((image,),) = encoder_feeds(tiny_sam, max_views=1)
    points = np.array([[[100, 60], [0, 0]]], np.float32), np.array([[1, -1]], np.float32)
    features = compiled["encoder"]([image])[0]
    no_mask = np.zeros((1, 1, SIDE // 4, SIDE // 4), np.float32), np.zeros(1, np.float32)
    expected = compiled["decoder"]([features, *points, *no_mask])
    found = compiled["joint"]([image, *points])
    for index in range(2):
        assert relative_error(found[index], expected[index]) < 0.05


def test_the_group_that_is_quantized_worst_is_found(tiny_sam, few_views):
    """A quantizer of two steps, which only that group's contribution shows."""
    feeds = encoder_feeds(tiny_sam, max_views=4)
    model = quantize_openvino.read_traced(quantize_openvino.traced_graphs(tiny_sam, ExportOptions())["encoder"])
    quantized = quantize_openvino._quantize(model, feeds, ())
    before = types_of(quantized)
    victim = "layers.1/blocks.0"
    for node in quantized.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and quantize_openvino._group_of(node) == victim:
            node.set_levels(2)
    contributions = measure_groups(quantized, feeds[:1])
    assert max(contributions, key=contributions.get) == victim
    assert groups_to_keep(contributions, 0.9 * contributions[victim])[0] == victim
    assert types_of(quantized) == before


def test_what_takes_pixels_is_quantized_too(few_views, export, errors_by_role, tiny_sam):
    folder, told = export(tiny_sam, precision="int8", preprocess=True, input_hw=(176, 256))
    assert told.facts["num_calibration_views"] == 4
    engine = make_engine("auto", folder)
    errors = errors_by_role(engine, tiny_sam, ExportOptions(preprocess=True, input_hw=(176, 256)), [CLICK])
    assert 1e-4 < errors["encoder"] < 0.15
    assert errors["decoder"] < 0.1  # of weights stored in fp16, computed in bf16


@pytest.fixture(scope="module")
def int8_folder(few_views, export, sam):
    folder, told = export(sam, precision="int8")
    assert told.facts["kept_in_higher_precision"] == list(quantize_openvino.KEPT["vit_t"])
    return folder


def test_int8_of_the_bundled_weights_loads_back_and_sees_the_same(int8_folder, onnx_predictor, cat_embedding, cat):
    predictor = SamPredictor(int8_folder)
    assert (predictor.engine.name, predictor.engine.precision) == ("openvino", "int8")
    predictor.set_image(cat)
    assert 1e-3 < relative_error(predictor.embedding.features, cat_embedding.features) < 0.12
    onnx_predictor.set_embedding(cat_embedding)
    for asked in ({"point_coords": [[225, 150]], "point_labels": [1]}, {"box": [60, 20, 450, 299]}):
        found, expected = (one.predict(**asked, multimask_output=False)[0][0] for one in (predictor, onnx_predictor))
        assert iou_of(found, expected) >= 0.95


def test_int8_files_are_much_smaller_and_answer_to_no_other_precision(int8_folder, sam):
    num_weights = sum(value.numel() for value in sam.image_encoder.parameters())
    assert (int8_folder / "encoder.bin").stat().st_size < 1.5 * num_weights  # bytes: most of them int8, the rest fp16
    for precision in ("fp32", "bf16"):
        with pytest.raises(
            ValueError, match=rf"precision='{precision}' was asked for and the model was exported in int8"
        ):
            SamPredictor(int8_folder, precision=precision)
    assert SamPredictor(int8_folder, precision="int8").engine.precision == "int8"
