"""An engine whose masks are neither regular nor foreseeable, but always the same for the same crop and point."""

import cv2
import numpy as np
import pytest

from mobile_sam.core.prompts import LABEL_PADDING
from mobile_sam.engines import Engine


class BlobEngine(Engine):
    """Ragged blobs around the prompt, with islands and holes, of random size, sharpness and predicted IoU.

    Attributes:
        num_encoded: pictures so far.
        num_decoded: prompts so far.
    """

    name = "blob"
    model_id = "blob"

    def __init__(self):
        self.num_encoded = self.num_decoded = 0

    def encode_input(self, model_input):
        self.num_encoded += len(model_input)
        return np.tile(model_input[:, :, ::16, ::16], (1, 86, 1, 1))[:, :256] + 0.01

    def _decode_some(self, embedding, prompts, mask_tokens):
        self.num_decoded += len(prompts)
        picture = int(abs(float(embedding.features[0, :3].sum())) * 10)
        logits = np.zeros((len(prompts), len(mask_tokens), 256, 256), np.float32)
        iou = np.zeros(logits.shape[:2], np.float32)
        for row in range(len(prompts)):
            x, y = prompts.coords_xy[row][prompts.labels[row] != LABEL_PADDING].mean(axis=0) / 4
            for column, token in enumerate(mask_tokens):
                random = np.random.default_rng([int(8 * x), int(8 * y), picture, token])
                logits[row, column] = blob(random, x, y)
                iou[row, column] = round(random.choice([*random.uniform(0.6, 1.05, 9), -0.2]), 2)  # some are equal
        return logits, iou


def blob(random, x, y):
    """(256, 256) logits, about above 0 where near to (x, y)."""
    radius, slope, num_cells = 3 + random.exponential(25), 10 ** random.uniform(-1, 1), random.integers(4, 40)
    coarse = random.normal(0, radius / 2, (num_cells, num_cells)).astype(np.float32)
    noise = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
    distance = np.hypot(np.arange(256) - x, np.arange(256)[:, None] - y)
    return np.clip(slope * (radius + noise - distance), -30, 30)


@pytest.fixture
def blob_engine():
    return BlobEngine()


@pytest.fixture
def make_picture():
    """Smooth noise of any size, so that crops differ."""

    def make(image_hw, seed=0):
        coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
        return cv2.resize(coarse, image_hw[::-1], interpolation=cv2.INTER_LINEAR)

    return make
