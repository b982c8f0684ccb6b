import numpy as np
import pytest
from PIL import Image

import mobile_sam.cli.everything
from mobile_sam.core.masks import encode_rle
from mobile_sam.everything.boxes import BoxPrompts

RECTANGLES = [((2, 1), (30, 20)), ((10, 5), (12, 9)), ((40, 30), (60, 47))]  # corners x, y, the first one inclusive


def rectangle(image_hw, upper_left, lower_right):
    mask = np.zeros(image_hw, bool)
    mask[upper_left[1] : lower_right[1], upper_left[0] : lower_right[0]] = True
    return mask


class FakeGenerator:
    """Finds three rectangles in each picture, the second within the first; a mask for each box is the box.

    With crops the worst comes first: there, masks do not come by falling predicted IoU.
    """

    def __init__(self, config):
        self.config = config
        self.pictures = []

    def generate(self, image, progress=None):
        self.pictures.append(image)
        if (image == 255).all():
            raise RuntimeError("white is too much")
        progress(0, 2)
        progress(2, 2)
        found = [
            self.record(image, corners, point_coords=[[corners[0][0] + 0.5, corners[0][1] + 0.5]], rank=rank)
            for rank, corners in enumerate(RECTANGLES)
        ]
        return found[::-1] if self.config.crop_n_layers else found

    def generate_from_boxes(self, image, boxes, progress=None):
        self.pictures.append(image)
        answers = []
        for row, prompt in enumerate(BoxPrompts.of(boxes, image.shape[:2]).prompts):
            x1, y1, x2, y2 = (int(side) for side in prompt.box_xyxy)
            more = {"point_coords": [], "box": prompt.box_xyxy.tolist()}
            answers.append(self.record(image, ((x1, y1), (x2, y2)), rank=-row, **more))
        return answers

    def record(self, image, corners, rank, **more):
        assert self.config.output_mode == "coco_rle"
        (x1, y1), (x2, y2) = corners
        return {
            "segmentation": encode_rle(rectangle(image.shape[:2], *corners)), "area": (x2 - x1) * (y2 - y1),
            "bbox": [x1, y1, x2 - x1, y2 - y1], "crop_box": [0, 0, image.shape[1], image.shape[0]],
            "predicted_iou": 0.99 - rank / 100, "stability_score": 0.96 + rank / 100, **more,
        }  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """The generators that commands made."""
    generators = []

    def make(config, engine, precision, model):
        generators.append(FakeGenerator(config))
        return generators[-1]

    monkeypatch.setattr(mobile_sam.cli.everything, "_make_generator", make)
    return generators


@pytest.fixture
def run(cli, made, tmp_path, monkeypatch):
    """Run `mobile-sam everything` in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: cli("everything", *arguments)


@pytest.fixture
def photos(tmp_path):
    """Two pictures of 64 x 48."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["cat.png", "dog.png"]):
        Image.fromarray(np.full((48, 64, 3), 60 + 40 * number, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def cat(photos):
    return photos / "cat.png"


@pytest.fixture
def rectangles():
    """The masks that are found in each picture: (3, 48, 64) bool."""
    return np.stack([rectangle((48, 64), *corners) for corners in RECTANGLES])
