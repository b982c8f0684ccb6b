"""The official answers once more on a GPU: `pytest tests/test_cuda.py` on a machine with one; skipped elsewhere.

The bounds for bf16 and fp16 are estimates until the first such run.
"""

import copy
import threading

import numpy as np
import pytest
import torch

from mobile_sam import SamPredictor
from mobile_sam.build_sam import build_sam_vit_t
from mobile_sam.core.images import read_image
from mobile_sam.engines.ort import available_providers
from mobile_sam.engines.pytorch import TorchEngine

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


@pytest.fixture(scope="module")
def cuda_model():
    return build_sam_vit_t("mobile_sam").to("cuda")


@pytest.fixture
def squares():
    """Normalised squares, (8, 3, 1024, 1024) on the GPU."""
    return torch.randn(8, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).to("cuda")


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_recorded_encoder_equals_the_eager_one(cuda_model, squares, precision):
    eager, recorded = (TorchEngine(cuda_model, precision=precision, cuda_graphs=way) for way in (False, True))
    first = recorded.encode_tensor(squares[:1])
    kept = first.clone()
    for batch in (squares[1:2], squares[:3], squares[2:3]):  # replayed, recorded for another shape, replayed
        assert relative_error(recorded.encode_tensor(batch), eager.encode_tensor(batch)) < 1e-3
    assert torch.equal(first, kept)  # an answer is a copy, which a later replay leaves alone


@needs_cuda
def test_a_recorded_encoder_follows_the_weights(cuda_model, squares):
    model = copy.deepcopy(cuda_model)
    engine = TorchEngine(model, precision="fp16", cuda_graphs=True)
    before = engine.encode_tensor(squares[:1])
    with torch.no_grad():
        model.image_encoder.neck[-1].bias.add_(1)
    torch.testing.assert_close(engine.encode_tensor(squares[:1]), before + 1, atol=1e-2, rtol=1e-2)
    other = copy.deepcopy(model.image_encoder)
    with torch.no_grad():
        other.neck[-1].bias.add_(1)
    model.image_encoder = other
    torch.testing.assert_close(engine.encode_tensor(squares[:1]), before + 2, atol=1e-2, rtol=1e-2)


@needs_cuda
def test_threads_share_a_recorded_encoder(cuda_model, squares):
    engine = TorchEngine(cuda_model, cuda_graphs=True)
    expected = [engine.encode_tensor(squares[row : row + 1]) for row in range(4)]
    found = {}

    def encode(row):
        for _ in range(5):
            found[row] = engine.encode_tensor(squares[row : row + 1])

    threads = [threading.Thread(target=encode, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(relative_error(found[row], expected[row]) < 1e-5 for row in range(4))


@needs_cuda
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_eight_pictures_at_once_equal_singles(cuda_model, examples, cuda_graphs):
    engine = TorchEngine(cuda_model, cuda_graphs=cuda_graphs)
    assert engine.images_at_once == 8
    pictures = [read_image(examples / name) for name in ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg")]
    together = engine.encode([*pictures, *pictures])
    singles = [engine.encode([picture])[0] for picture in pictures]
    for found, expected in zip(together, [*singles, *singles], strict=True):
        error = np.linalg.norm(found.features - expected.features) / np.linalg.norm(expected.features)
        assert error < 1e-3


@needs_cuda
def test_a_compiled_encoder_equals_the_eager_one(cuda_model, squares):
    pytest.importorskip("triton")
    compiled = TorchEngine(cuda_model, compile=True, cuda_graphs=True)
    expected = TorchEngine(cuda_model).encode_tensor(squares[:1])
    assert relative_error(compiled.encode_tensor(squares[:1]), expected) < 1e-3
