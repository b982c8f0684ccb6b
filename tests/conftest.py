import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from safetensors.torch import save_file

from mobile_sam import SamPredictor
from mobile_sam.engines import Engine

ROOT = Path(__file__).parent.parent
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import onnxruntime directly, too
PICTURES = {"astronaut": "astronaut.png", "chelsea": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled models are kept, here and in what tests start: never the user's own place."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILE_SAM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def onnx_predictor() -> SamPredictor:
    """The bundled weights on ONNX Runtime; tests that use it set their own picture."""
    return SamPredictor(engine="onnxruntime")


@pytest.fixture(scope="session")
def openvino_predictor() -> SamPredictor:
    return SamPredictor(engine="openvino")


@pytest.fixture(scope="session")
def torch_predictor() -> SamPredictor:
    return SamPredictor(engine="torch", device="cpu")


@pytest.fixture
def cat_predictor(onnx_predictor: SamPredictor, cat_embedding) -> SamPredictor:
    """A predictor on which examples/chelsea.png (300 x 451) is set."""
    onnx_predictor.set_embedding(cat_embedding)
    return onnx_predictor


@pytest.fixture(scope="session")
def cat_embedding(onnx_predictor: SamPredictor, examples: Path):
    return onnx_predictor.encode([examples / "chelsea.png"])[0]


class DiscEngine(Engine):
    """Quick, and easy to foresee: features are pixels of the picture, masks are discs.

    Mask token m of a prompt is a disc of 40 * (m + 1) model pixels around the mean of its points of the object and its
    box corners, or around the mean of its mask; its predicted IoU is 0.5 + m / 10.
    """

    name = "disc"
    model_id = "disc"

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.tile(model_input[:, :, ::16, ::16], (1, 86, 1, 1))[:, :256].copy()

    def _decode_some(self, embedding, prompts, mask_tokens):
        y, x = 4 * np.mgrid[:256, :256] + 2  # model pixels
        radii = 40 * (1 + np.array(mask_tokens)).reshape(-1, 1, 1)
        logits = []
        for row in range(len(prompts)):
            wanted = prompts.coords_xy[row][prompts.labels[row] > 0]
            if not len(wanted):
                inside = prompts.mask_logits[row, 0] > 0
                wanted = np.stack([x[inside], y[inside]], axis=1)
            centre_x, centre_y = wanted.mean(axis=0)
            logits.append(radii - np.hypot(x - centre_x, y - centre_y))
        scores = np.tile(0.5 + np.array(mask_tokens) / 10, (len(prompts), 1))
        return np.stack(logits).astype(np.float32), scores.astype(np.float32)


@pytest.fixture
def disc_engine() -> DiscEngine:
    return DiscEngine()


@dataclass
class OfficialAnswers:
    """What the original implementation answers for one picture (scripts/make_parity_fixtures.py)."""

    picture: Path
    size_hw: tuple[int, int]
    prompts: list[dict[str, Any]]
    embedding: NDArray[np.float32]  # (1, 256, 16, 16): every fourth row and column

    def masks(self, prompt: dict[str, Any]) -> NDArray[np.bool_]:
        """(4, H, W): the single mask, then the three for ambiguous prompts."""
        decoded = [coco_mask.decode({"size": self.size_hw, "counts": counts}) for counts in prompt["rle_counts"]]
        return np.stack(decoded).astype(bool)


@pytest.fixture(scope="session", params=sorted(PICTURES))
def official(request: pytest.FixtureRequest, examples: Path) -> OfficialAnswers:
    folder = ROOT / "tests" / "fixtures" / "parity"
    stored = json.loads((folder / f"{request.param}.json").read_text())
    embedding = np.load(folder / f"{request.param}.embedding.npy")
    return OfficialAnswers(examples / PICTURES[request.param], stored["size_hw"], stored["prompts"], embedding)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint, by its suffix as safetensors or as torch does."""

    def save_as(content, name="checkpoint.pt"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save_as


@pytest.fixture
def recipe(tmp_path):
    """Write a training recipe, which has TrainConfig."""

    def write(text):
        path = tmp_path / "mine.py"
        path.write_text(f"from mobile_sam.distill.config import TrainConfig\n{text}")
        return path

    return write
