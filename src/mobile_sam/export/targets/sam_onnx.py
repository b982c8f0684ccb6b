"""SAM's own ONNX contract: what `scripts/export_onnx_model.py` writes, with all its flags, and the encoder beside it.

encoder.onnx   image (1, 3, 1024, 1024) float32, normalised and padded -> image_embeddings (1, 256, 64, 64)
decoder.onnx   image_embeddings, point_coords (1, N, 2), point_labels (1, N), mask_input (1, 1, 256, 256),
               has_mask_input (1,), orig_im_size (2,), all float32 -> masks (1, M, H, W) logits of the picture's size,
               iou_predictions (1, M), [stability_scores (1, M), areas (1, M) int64,] low_res_masks (1, M, 256, 256)

M is 4, or 1 with `return_single_mask`. SAM's web demo takes the first output to be the masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.core.geometry import INPUT_SIDE, LongSideResize
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.export.contract_modules import (
    quantize_weights,
    require_sam_frame,
    sam_decoder_spec,
    with_approximate_gelu,
    write_graph,
)
from mobile_sam.export.contract_runner import normalise_and_pad, open_session
from mobile_sam.export.graphs import GraphSpec
from mobile_sam.export.modules import EncoderGraph
from mobile_sam.export.runner import ALL_TOKENS, Answer
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.sam import Sam
from mobile_sam.utils.onnx import SamOnnxModel

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"

DEMO_NOTE = (
    "SAM's web demo reads embeddings from .npy files: "
    'np.save("picture_embedding.npy", predictor.get_image_embedding()).'
)


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="sam-onnx",
        summary="SAM's ONNX decoder contract, for SAM's web demo and whatever else runs SAM's decoder",
        precisions=("fp32", "int8"),
        extra="export",
        packages=("onnx", "onnxruntime"),
        bounds={"fp32": FP32_BOUND, "int8": Bound(1e-4, 0.95, 0.0)},
        options=frozenset(
            {"return_single_mask", "use_stability_score", "return_extra_metrics", "gelu_approximate", "opset"}
        ),
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`; int8 quantizes the decoder only, as SAM's `--quantize-out` does.

    Raises:
        ValueError: a model of another input side, or an opset that cannot be written.
    """
    require_sam_frame(sam, "SAM's ONNX contract")
    image = torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE)
    write_graph(
        GraphSpec(ENCODER_FILE, EncoderGraph(sam), (image,), ("image",), ("image_embeddings",), {}),
        folder,
        options.opset,
    )
    decoder = SamOnnxModel(
        sam, options.return_single_mask, options.use_stability_score, options.return_extra_metrics
    ).eval()
    graph = sam_decoder_spec(
        sam,
        with_approximate_gelu(decoder) if options.gelu_approximate else decoder,
        DECODER_FILE,
        has_metrics=options.return_extra_metrics,
    )
    path = write_graph(graph, folder, options.opset)
    if options.precision == "int8":
        quantize_weights(path)
    return Written({"encoder": ENCODER_FILE, "decoder": DECODER_FILE}, notes=(DEMO_NOTE,))


def open_runner(folder: Path, num_threads: int = 0) -> SamOnnxRunner:
    """See `mobile_sam.export.targets`."""
    return SamOnnxRunner(folder, num_threads)


class SamOnnxRunner:
    """Runs the files as SAM's notebook on ONNX does."""

    def __init__(self, folder: Path, num_threads: int = 0) -> None:
        self.encoder = open_session(folder / ENCODER_FILE, num_threads)
        self.decoder = open_session(folder / DECODER_FILE, num_threads)
        self._names = [one.name for one in self.decoder.get_outputs()]
        self._features = np.zeros((0,), np.float32)
        self._resize = LongSideResize((INPUT_SIDE, INPUT_SIDE))

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runner.encode`."""
        self._resize = LongSideResize((image.shape[0], image.shape[1]))
        model_input = normalise_and_pad(self._resize.resize_image(image))
        (self._features,) = self.encoder.run(["image_embeddings"], {"image": model_input})
        return self._features

    def decode(self, prompt: Prompt) -> Answer:
        """See `Runner.decode`."""
        batch = PromptBatch.from_prompts([prompt], self._resize)
        feed = {
            "image_embeddings": self._features,
            "point_coords": batch.coords_xy,
            "point_labels": batch.labels,
            "mask_input": np.zeros((1, 1, INPUT_SIDE // 4, INPUT_SIDE // 4), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(self._resize.image_hw, np.float32),
        }
        answers = dict(zip(self._names, self.decoder.run(None, feed), strict=True))
        masks, scores = answers["masks"][0], answers["iou_predictions"][0]
        return Answer(masks, scores, ALL_TOKENS if len(masks) == len(ALL_TOKENS) else None)

    def draw(self, answer: Answer) -> NDArray[np.bool_]:
        """See `Runner.draw`."""
        drawn: NDArray[np.bool_] = answer.masks > 0
        return drawn
