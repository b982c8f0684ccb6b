import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mobile_sam.core.weights import bundled_weights_path


@pytest.fixture(scope="session")
def perturbed(tmp_path_factory):
    """Weights of the same layout, each value moved by some per cent, so that no stored value is still right."""
    random = np.random.default_rng(0)
    tensors = {
        key: value * (1 + 0.05 * random.random(value.shape, np.float32)) if value.dtype == np.float32 else value
        for key, value in load_file(bundled_weights_path()).items()
    }
    path = tmp_path_factory.mktemp("weights") / "perturbed.safetensors"
    save_file(tensors, path)
    return path
