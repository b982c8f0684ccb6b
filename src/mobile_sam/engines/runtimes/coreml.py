"""Core ML packages (`.mlpackage`) through coremltools, on macOS only. Written for it, and not run by our own tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.engines.runtimes import Graph

PACKAGE = ("coremltools", "coremltools")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`; Core ML chooses threads and devices by itself."""
    import coremltools
    from PIL import Image

    model = coremltools.models.MLModel(str(path))
    description = model.get_spec().description
    input_names = [one.name for one in description.input]
    image_names = {one.name for one in description.input if one.type.WhichOneof("Type") == "imageType"}
    output_names = [one.name for one in description.output]

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        fed: dict[str, Any] = {}
        for name, array in zip(input_names, inputs, strict=True):
            fed[name] = Image.fromarray(array) if name in image_names else np.ascontiguousarray(array, np.float32)
        answers = model.predict(fed)
        return [np.asarray(answers[name], np.float32) for name in output_names]

    return run
