import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.masks import encode_rle

HEIGHT, WIDTH = 24, 32


def jpeg(number: int = 0, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    """A picture in one grey that tells its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size_hw, 3), number % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def sa1b_json(number: int, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    """SA-1B's file for it: one object, rows 3 to 8 and columns 2 to 7."""
    mask = np.zeros(size_hw, bool)
    mask[3:9, 2:8] = True
    annotation = {
        "id": 100 + number, "segmentation": encode_rle(mask), "bbox": [2.0, 3.0, 5.0, 5.0], "area": 36,
        "predicted_iou": 0.97, "stability_score": 0.98, "crop_box": [0.0, 0.0, WIDTH, HEIGHT],
        "point_coords": [[4.5, 6.25]],
    }  # fmt: skip
    header = {"image_id": number, "width": size_hw[1], "height": size_hw[0], "file_name": f"sa_{number}.jpg"}
    return json.dumps({"image": header, "annotations": [annotation]}).encode()


def sa1b_files(*numbers: int) -> list[tuple[str, bytes]]:
    """Members of a tar as SA-1B has them."""
    return [
        member
        for number in numbers
        for member in ((f"./sa_{number}.jpg", jpeg(number)), (f"./sa_{number}.json", sa1b_json(number)))
    ]


@pytest.fixture
def put_tar(tmp_path: Path) -> Callable[..., Path]:
    """Write a tar of (name, content), or of numbers as SA-1B has them."""

    def put(name: str, *members: tuple[str, bytes] | int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member in members:
                for file_name, content in sa1b_files(member) if isinstance(member, int) else [member]:
                    info = tarfile.TarInfo(file_name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return path

    return put


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


@pytest.fixture
def make_json() -> Callable[..., bytes]:
    return sa1b_json
