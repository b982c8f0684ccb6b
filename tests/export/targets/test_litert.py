"""Target litert: what the interpreter computes is what PyTorch does. Run by `make test-litert`."""

import pytest

from mobile_sam import Prompt
from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import open_graph
from mobile_sam.export.target import MAX_POINTS, ExportOptions
from mobile_sam.export.targets import litert as target

pytest.importorskip("litert_torch")

RICH = ExportOptions(preprocess=True, input_hw=(192, 256), joint=True, num_prompts=2, num_points=4)


def test_all_graphs_with_all_options_compute_what_pytorch_does(export_to, tiny_sam, errors_by_role):
    engine = export_to("litert", tiny_sam, RICH)
    prompts = [Prompt.of(box=[20, 30, 200, 250]), Prompt.of(points=[[100, 90], [10, 10]], labels=[1, 0])]
    errors = errors_by_role(engine, tiny_sam, RICH, prompts)
    assert sorted(errors) == ["decoder", "encoder", "joint"]
    assert max(errors.values()) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_bundled_weights_stay_within_the_bound(export_to, sam, nearness, precision):
    engine = export_to("litert", sam, ExportOptions(precision=precision))
    assert (engine.manifest.num_prompts, engine.manifest.num_points) == (1, MAX_POINTS)
    bound = target.spec().bounds[precision]
    embedding_error, worst_iou = nearness(engine)
    assert embedding_error < bound.embedding_error
    assert worst_iou > bound.mask_iou_min
    assert (embedding_error > 1e-4) == (precision != "fp32")  # else it would be no other precision


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_low_precision_makes_files_smaller(export_to, tiny_sam, precision):
    small, full = (
        (export_to("litert", tiny_sam, ExportOptions(precision=name)).folder / "decoder.tflite").stat().st_size
        for name in (precision, "fp32")
    )
    assert small < {"fp16": 0.6, "int8": 0.35}[precision] * full


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, content):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "graph.tflite").write_bytes(content)
    with pytest.raises(WeightsError, match=r"graph\.tflite is missing or damaged.*`mobile-sam export`"):
        open_graph("litert", tmp_path / "graph.tflite")
