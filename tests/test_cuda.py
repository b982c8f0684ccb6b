"""The official answers once more on a GPU: `pytest tests/test_cuda.py` on a machine with one; skipped elsewhere.

The bounds for bf16 and fp16 are estimates until the first such run.
"""

import numpy as np
import pytest
import torch

from mobile_sam import SamPredictor
from mobile_sam.engines.ort import available_providers

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_onnx_cuda = pytest.mark.skipif("cuda" not in available_providers(), reason="onnxruntime-gpu is not installed")
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU")


def worst_mask_iou(predictor, official):
    """Least IoU of a mask with the official one, over the prompts that need no earlier answer."""
    predictor.set_image(official.picture)
    worst = 1.0
    for prompt in official.prompts:
        if prompt["name"] == "point_then_mask":
            continue
        asked = (prompt.get("points"), prompt.get("labels"), prompt.get("box"))
        masks, _, _ = predictor.predict(*asked, multimask_output=True)
        for found, expected in zip(masks, official.masks(prompt)[1:], strict=True):
            worst = min(worst, np.count_nonzero(found & expected) / np.count_nonzero(found | expected))
    return worst


@pytest.mark.parametrize(
    ("engine", "device", "precision", "least_iou"),
    [
        pytest.param("torch", "cuda", "fp32", 0.999, marks=needs_cuda),
        pytest.param("torch", "cuda", "bf16", 0.9, marks=needs_cuda),
        pytest.param("torch", "cuda", "fp16", 0.97, marks=needs_cuda),
        pytest.param("onnxruntime", "cuda", "fp32", 0.999, marks=needs_onnx_cuda),
        pytest.param("torch", "mps", "fp32", 0.999, marks=needs_mps),
    ],
)
def test_masks_equal_the_official_ones(monkeypatch, official, engine, device, precision, least_iou):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as docs/guide.md says for exact fp32
    predictor = SamPredictor(engine=engine, device=device, precision=precision)
    assert worst_mask_iou(predictor, official) >= least_iou


@needs_cuda
def test_tensor_door_stays_on_the_device(examples):
    predictor = SamPredictor(engine="torch", device="cuda")
    predictor.set_image(examples / "coffee.png")
    boxes = torch.tensor([[170.0, 15.0, 425.0, 310.0]], device="cuda")
    boxes = predictor.transform.apply_boxes_torch(boxes, predictor.original_size)
    masks, iou, low_res = predictor.predict_torch(None, None, boxes, multimask_output=False)
    assert {masks.device.type, iou.device.type, low_res.device.type} == {"cuda"}
    expected, _, _ = predictor.predict(box=[170, 15, 425, 310], multimask_output=False)
    assert (masks[0].cpu().numpy() == expected).mean() > 0.999
