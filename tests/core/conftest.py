import numpy as np
import pytest


@pytest.fixture
def rgb():
    """(24, 32, 3) uint8 with smooth colours, so that lossy formats come close."""
    y, x = np.mgrid[:24, :32]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], axis=2).astype(np.uint8)
