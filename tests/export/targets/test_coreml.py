"""Target coreml: Core ML cannot run here, so what was written is read back (`make test-coreml`)."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.export.coreml_check import check_package, missing_weights, program_operations
from mobile_sam.export.four_axes import FourAxisDecoder
from mobile_sam.export.modules import DecoderGraph
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import coreml as target
from mobile_sam.modeling.sam import Sam

pytest.importorskip("coremltools")

SIDE = 256  # of tiny_sam


@pytest.fixture(scope="module")
def tiny_sam(tiny_sam_without_zeros) -> Sam:
    return tiny_sam_without_zeros


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def written(request, tiny_sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coreml")
    return request.param, folder, target.write(tiny_sam, ExportOptions(precision=request.param), folder)


def test_inputs_and_outputs_are_float32_arrays_of_the_names_and_shapes_of_our_graphs(written):
    _, _, told = written
    assert told.graphs == {"encoder": "encoder.mlpackage", "decoder": "decoder.mlpackage"}
    assert (told.num_prompts, told.num_points) == (1, 6)
    encoder, decoder = told.facts["checked"]["encoder"], told.facts["checked"]["decoder"]
    assert encoder["inputs"] == {"image": "float32 [1, 3, 256, 256]"}
    assert encoder["outputs"] == {"features": "float32 [1, 256, 16, 16]"}
    assert decoder["inputs"] == {
        "features": "float32 [1, 256, 16, 16]",
        "point_coords": "float32 [1, 6, 2]",
        "point_labels": "float32 [1, 6]",
        "mask_input": "float32 [1, 1, 64, 64]",
        "has_mask_input": "float32 [1]",
    }
    assert decoder["outputs"] == {"low_res_logits": "float32 [1, 4, 64, 64]", "iou_predictions": "float32 [1, 4]"}


def test_every_weight_of_the_model_is_found(written, tiny_sam):
    _, _, told = written
    num_found = {role: facts["values_found"] for role, facts in told.facts["checked"].items()}
    matrices = [parameter.numel() for parameter in tiny_sam.mask_decoder.parameters() if parameter.ndim > 1]
    assert num_found["decoder"] > sum(matrices)
    assert num_found["encoder"] > 0.97 * sum(one.numel() for one in tiny_sam.image_encoder.parameters())


def test_norms_and_positions_stay_in_fp32_and_the_rest_does_not(written):
    precision, folder, _ = written
    operations = program_operations(folder / "decoder.mlpackage")
    kinds = {op.op_type: set() for op in operations}
    for op in operations:
        kinds[op.op_type].add(op.outputs[0].dtype.__name__)
    assert kinds["layer_norm"] == kinds["sin"] == kinds["cos"] == {"fp32"}
    (sine,) = (op for op in operations if op.op_type == "sin")
    assert sine.x.op.op_type != "cast"
    assert kinds["linear"] == ({"fp32"} if precision == "fp32" else {"fp16"})


def test_fp16_takes_half_of_the_bytes_and_int8_a_quarter(tiny_sam, tmp_path):
    sizes = {}
    module = FourAxisDecoder(tiny_sam).eval()
    names = (target.input_names("decoder", False), target.output_names("decoder"))
    for precision in ("fp32", "fp16", "int8"):
        path = tmp_path / f"{precision}.mlpackage"
        target.convert(module, module.example_inputs(1, 3), *names, precision).save(str(path))
        sizes[precision] = (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.05)
    assert sizes["int8"] == pytest.approx(sizes["fp32"] / 4, rel=0.2)


def test_with_preprocessing_the_encoder_takes_an_image_and_the_joint_graph_too(tiny_sam, tmp_path):
    options = ExportOptions(preprocess=True, input_hw=(192, SIDE), joint=True, num_prompts=2, num_points=3)
    told = target.write(tiny_sam, options, tmp_path)
    facts = told.facts["checked"]
    assert facts["encoder"]["inputs"] == {"image": "image RGB 256x192", "valid_hw": "float32 [2]"}
    assert facts["joint"]["inputs"] == {
        **facts["encoder"]["inputs"], "point_coords": "float32 [2, 3, 2]", "point_labels": "float32 [2, 3]"
    }  # fmt: skip
    assert facts["joint"]["outputs"] == {
        "low_res_logits": "float32 [2, 4, 64, 64]",
        "iou_predictions": "float32 [2, 4]",
    }


@pytest.mark.parametrize("num_prompts", [1, 3])
def test_the_module_that_is_converted_computes_what_the_decoder_does(tiny_sam, num_prompts):
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([[1, 0, -1, -10], [2, 3, 1, -10], [2, 3, -10, -10]], dtype=torch.float32)[:num_prompts]
    inputs = (
        torch.randn(1, 256, SIDE // 16, SIDE // 16, generator=rng),
        SIDE * torch.rand(num_prompts, 4, 2, generator=rng),
        labels,
        torch.randn(1, 1, SIDE // 4, SIDE // 4, generator=rng),
        torch.ones(1),
    )
    with torch.no_grad():
        found, expected = FourAxisDecoder(tiny_sam).eval()(*inputs), DecoderGraph(tiny_sam).eval()(*inputs)
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, atol=1e-5)


def test_a_package_of_another_model_is_noticed(written, tiny_sam):
    precision, folder, _ = written
    other = deepcopy(tiny_sam)
    with torch.no_grad():
        other.mask_decoder.output_hypernetworks_mlps[2].layers[1].weight[5, 7] += 1
    names = (target.input_names("decoder", False), target.output_names("decoder"))
    decoder = FourAxisDecoder(other).eval()
    with pytest.raises(RuntimeError, match=r"lacks weights of the model: .*mlps\.2\.layers\.1\.weight$"):
        check_package(folder / "decoder.mlpackage", decoder, precision, *names)
    with pytest.raises(RuntimeError, match="in place of what was asked for"):
        check_package(folder / "encoder.mlpackage", decoder, precision, *names)


def test_weights_are_found_in_another_layout_and_not_when_one_number_differs():
    weight = np.arange(100, dtype=np.float32).reshape(4, 25)
    constants = [weight.T.astype(np.float16), np.zeros(100, np.float32)]
    assert missing_weights({"there": weight}, constants, 1e-3) == []
    weight = weight.copy()
    weight[0, 0] = 50
    assert missing_weights({"changed": weight}, constants, 1e-3) == ["changed"]


@pytest.mark.skipif(target.CAN_RUN, reason="there it runs")
def test_it_says_that_it_was_not_run(written):
    _, folder, told = written
    assert target.open_runner(folder) is None
    assert "not run here" in told.notes[0]
    assert "not run here" in target.spec().not_run_here


def test_the_bundled_weights_are_all_found(sam, tmp_path):
    told = target.write(sam, ExportOptions(), tmp_path)
    assert told.facts["checked"]["encoder"]["values_found"] > 0.97 * sum(
        one.numel() for one in sam.image_encoder.parameters()
    )
