"""Target executorch: what XNNPACK computes is what PyTorch does, and most of the network is on XNNPACK."""

import numpy as np
import pytest
import torch

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import open_graph
from mobile_sam.export.programs import recordables
from mobile_sam.export.target import FP32_BOUND, MAX_POINTS, ExportOptions
from mobile_sam.export.targets import executorch as target

pytest.importorskip("executorch")

RICH = ExportOptions(preprocess=True, input_hw=(192, 256), joint=True)


@pytest.fixture(scope="module")
def whole(export_to, sam):
    return export_to("executorch", sam, ExportOptions())


def test_all_options_at_once_compute_what_pytorch_does_mostly_on_xnnpack(tiny_sam, tmp_path):
    module, inputs = recordables(tiny_sam, RICH, num_prompts=2, num_points=4)["joint"]
    content, share = target.lower((module, inputs))
    (tmp_path / "joint.pte").write_bytes(content)
    pixels = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
    coords_xy = np.array([[[20, 30], [200, 150], [60, 60], [0, 0]], [[90, 80], [9, 8], [0, 0], [0, 0]]], np.float32)
    labels = np.array([[2, 3, 1, -10], [1, 0, -1, -10]], np.float32)
    given = [pixels, np.array([170, 256], np.float32), coords_xy, labels]
    found = open_graph("executorch", tmp_path / "joint.pte", num_threads=1)(given)
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, given))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert 0.6 < share < 1


def test_the_bundled_weights_stay_within_the_bound(whole, nearness):
    embedding_error, worst_iou = nearness(whole)
    assert embedding_error < FP32_BOUND.embedding_error
    assert worst_iou > FP32_BOUND.mask_iou_mean


def test_one_prompt_of_the_usual_number_of_points_is_what_is_fixed_unless_told(whole):
    assert (whole.manifest.num_prompts, whole.manifest.num_points) == (1, MAX_POINTS)


@pytest.mark.parametrize("content", [b"", b"no program at all"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "graph.pte").write_bytes(content)
    with pytest.raises(WeightsError, match=r"graph\.pte is missing or damaged.*`mobile-sam export`"):
        open_graph("executorch", tmp_path / "graph.pte")
