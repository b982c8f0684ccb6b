"""Training runs of a second: pictures of a few pixels, made-up embeddings, a student of one million parameters."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from mobile_sam.build_sam import sam_from_checkpoint, sam_model_registry, save_sam
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.data.embedding_format import EmbeddingPlan
from mobile_sam.data.embedding_shards import EmbeddingShardWriter, TeacherRecord
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill import train as loop
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.processes import Processes
from mobile_sam.distill.run_folder import RunFolder

NUM_PICTURES = 10
ALONE = Processes(0, 1, torch.device("cpu"))
TEACHER_SIDE = 128


def make_picture(seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a bright rectangle on a dark ground, with some noise."""
    rng = np.random.default_rng(seed)
    height, width = (48, 64) if seed % 2 else (64, 40)
    image = rng.integers(0, 60, (height, width, 3))
    x, y = rng.integers(4, 12, 2)
    image[y : y + 24, x : x + 20] += rng.integers(60, 190, 3)
    return image.astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES):
        Image.fromarray(make_picture(number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of one million parameters and 128 px, with the bundled decoder."""
    torch.manual_seed(7)
    teacher = sam_model_registry["vit_t_1m"](input_side=TEACHER_SIDE)
    bundled = sam_from_checkpoint("mobile_sam")
    teacher.prompt_encoder.load_state_dict(bundled.prompt_encoder.state_dict())
    teacher.mask_decoder.load_state_dict(bundled.mask_decoder.state_dict())
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_sam(teacher, path, name="vit_t_1m")
    return path


@pytest.fixture(scope="session")
def write_embeddings() -> Callable[..., Path]:
    """Write made-up embeddings of all pictures in a folder, as a teacher of 128 px gives them."""

    def write(folder: Path, pictures: Path, name: str = "vit_h") -> Path:
        found = open_picture_set(pictures)
        teacher = TeacherRecord(name, "0" * 64, f"made up {name}", TEACHER_SIDE, "fp32")
        plan = EmbeddingPlan(teacher, found.name, found.fingerprint, len(found), len(found))
        folder.mkdir(exist_ok=True)
        plan.write(folder)
        rng = np.random.default_rng(0)
        with EmbeddingShardWriter.open(folder, plan, 0) as writer:
            for index, key in enumerate(found.keys):
                resize = LongSideResize(found.read(index).image.shape[:2], TEACHER_SIDE)
                blocks = rng.normal(size=(256, 2, 2)).astype(np.float16)  # as coarse as a tiny student can follow
                writer.add(key, np.kron(blocks, np.ones((4, 4), np.float16)), resize.image_hw, resize.input_hw)
        return folder

    return write


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory: pytest.TempPathFactory, pictures: Path, write_embeddings) -> Path:
    """A folder with made-up embeddings of `pictures`."""
    return write_embeddings(tmp_path_factory.mktemp("embeddings"), pictures)


@pytest.fixture(scope="session")
def coco_file(pictures: Path) -> Path:
    """A COCO file with the rectangle on each of `pictures`."""
    images, annotations = [], []
    for number in range(NUM_PICTURES):
        bright = make_picture(number).astype(int).sum(axis=2) > 180
        encoded = coco_mask.encode(np.asfortranarray(bright.astype(np.uint8)))
        height, width = bright.shape
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        annotations.append(
            {
                "id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
                "area": int(bright.sum()), "bbox": coco_mask.toBbox(encoded).tolist(),
            }
        )  # fmt: skip
    path = pictures.parent / f"{pictures.name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}))
    for picture in pictures.glob("*.png"):
        (path.parent / picture.name).write_bytes(picture.read_bytes())
    return path


@pytest.fixture(scope="session")
def tiny_settings(pictures: Path, embeddings: Path, teacher_file: Path) -> dict[str, Any]:
    """Settings of the shortest run there is: 64 px, embeddings from the disk, eight steps of two pictures."""
    return {
        "data": (str(pictures),), "embeddings": str(embeddings), "decoder_from": str(teacher_file), "num_held_out": 1,
        "student": "vit_t_1m", "input_side": 64, "batch_size": 2, "max_steps": 8, "warmup_steps": 0,
        "log_every": 1, "checkpoint_every": 4, "validate_every": 100, "tensorboard": False,
        "device": "cpu", "num_workers": 0, "num_threads": 1,
    }  # fmt: skip


@pytest.fixture
def tiny(tiny_settings: dict[str, Any]) -> Callable[..., TrainConfig]:
    """Make the configuration of `tiny_settings`, some settings changed."""
    return lambda **changes: TrainConfig(**{**tiny_settings, **changes})


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Calculate in one thread: what is this small gains nothing from more, and a run of `tiny_settings` elsewhere,
    which has num_threads=1, comes to the same bits.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[TrainConfig], Path]:
    """Write a configuration as a recipe."""

    def write(config: TrainConfig) -> Path:
        path = tmp_path / "recipe.py"
        chosen = ", ".join(f"{known.name}={getattr(config, known.name)!r}" for known in fields(config))
        path.write_text(f"from mobile_sam.distill.config import TrainConfig\n\nRECIPE = TrainConfig({chosen})\n")
        return path

    return write


@pytest.fixture
def run_in() -> Iterator[Callable[..., Any]]:
    """Make a run without starting it: (configuration, folder, processes, restart) -> run."""
    owned = []

    def make(config: TrainConfig, folder: Path, processes: Processes = ALONE, restart: bool = False) -> Any:
        owned.append(RunFolder(folder, processes))
        return loop._Run(config, owned[-1], processes, restart)

    yield make
    for own in owned:
        own.close()
