"""X-AnyLabeling, `type: edge_sam`: pictures of any shape keep the resolution that SAM gives them.

mobile_sam.encoder.onnx   image (1, 3, h, w) uint8, RGB, its longer side 1024 -> image_embeddings (1, 256, 64, 64)
mobile_sam.decoder.onnx   image_embeddings, point_coords (1, N, 2), point_labels (1, N)
                          -> scores (1, M), masks (1, M, 256, 256)
config.yaml               what the program reads

M is 4, of which the program takes the most stable one, or 1 with `return_single_mask`, chosen as SAM does. The program
adds no padding point, so the graph does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobile_sam.core.geometry import INPUT_SIDE, LongSideResize
from mobile_sam.core.masks import stability_score
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.contract_modules import PixelEncoder, PointDecoder, require_sam_frame, write_graph
from mobile_sam.export.contract_runner import FrameRunner, prompt_points
from mobile_sam.export.graphs import GraphSpec
from mobile_sam.export.runner import ALL_TOKENS, Answer
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.sam import Sam
from mobile_sam.utils.onnx import SamOnnxModel

ENCODER_FILE, DECODER_FILE, CONFIG_FILE = "mobile_sam.encoder.onnx", "mobile_sam.decoder.onnx", "config.yaml"
CONFIG = f"""\
type: edge_sam
name: mobile_sam_edge_sam
provider: Others
display_name: MobileSAM (any shape)
encoder_model_path: {ENCODER_FILE}
decoder_model_path: {DECODER_FILE}
target_length: {INPUT_SIDE}
"""

CHOICE_NOTE = (
    "Of the four masks the program takes the most stable one; export with --return-single-mask for the one that SAM "
    "would choose."
)
NAME_NOTE = f"Each custom model needs a `name` of its own in {CONFIG_FILE}."


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`; the program resizes without antialiasing, which is what the bound allows for."""
    return TargetSpec(
        name="edge-sam",
        summary="X-AnyLabeling, type edge_sam",
        precisions=("fp32",),
        extra="export",
        packages=("onnx", "onnxruntime"),
        bounds={"fp32": Bound(FP32_BOUND.embedding_error, 0.98, 0.5)},
        options=frozenset({"return_single_mask"}),
    )


class EdgeSamDecoder(nn.Module):
    """Scores and masks of one prompt, in this order."""

    def __init__(self, sam: Sam, return_single_mask: bool) -> None:
        super().__init__()
        self.decoder = PointDecoder(sam)
        self.chooser = SamOnnxModel(sam, return_single_mask=True)
        self.return_single_mask = return_single_mask

    def forward(self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Decode: see the module's docstring."""
        scores, masks = self.decoder(image_embeddings, point_coords, point_labels)  # (1, 4), (1, 4, 256, 256)
        if self.return_single_mask:
            masks, scores = self.chooser.select_masks(masks, scores, point_coords.shape[1] + 1)  # with the padding
        return scores, masks


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: a model of another input side.
    """
    require_sam_frame(sam, "X-AnyLabeling")
    write_graph(
        GraphSpec(
            ENCODER_FILE, PixelEncoder(sam, channels_last=False), (torch.zeros(1, 3, 680, 1024, dtype=torch.uint8),),
            ("image",), ("image_embeddings",), {"image": {2: "height", 3: "width"}},
        ),
        folder,
    )  # fmt: skip
    write_graph(
        GraphSpec(
            DECODER_FILE, EdgeSamDecoder(sam, options.return_single_mask).eval(),
            (torch.zeros(1, 256, 64, 64), torch.full((1, 5, 2), 100.0), torch.ones(1, 5)),
            ("image_embeddings", "point_coords", "point_labels"), ("scores", "masks"),
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        ),
        folder,
    )  # fmt: skip
    (folder / CONFIG_FILE).write_text(CONFIG, encoding="utf-8")
    notes = (NAME_NOTE,) if options.return_single_mask else (CHOICE_NOTE, NAME_NOTE)
    return Written({"encoder": ENCODER_FILE, "decoder": DECODER_FILE}, notes=notes)


def open_runner(folder: Path, num_threads: int = 0) -> EdgeSamRunner:
    """See `mobile_sam.export.targets`."""
    return EdgeSamRunner(folder / ENCODER_FILE, folder / DECODER_FILE, num_threads)


class EdgeSamRunner(FrameRunner):
    """Runs the files as X-AnyLabeling does."""

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runner.encode`; empty where the program's way of resizing makes other pixels of the picture."""
        import cv2

        self.image_hw = image.shape[0], image.shape[1]
        self.input_hw = LongSideResize(self.image_hw).input_hw
        pixels = cv2.resize(image, self.input_hw[::-1])  # (h, w, 3)
        (name,) = (one.name for one in self.encoder.get_inputs())
        self.features = self.encoder.run(None, {name: np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]})[0]
        return self.features if self.image_hw == self.input_hw else np.zeros((0,), np.float32)

    def decode(self, prompt: Prompt) -> Answer:
        """See `Runner.decode`; of several masks the most stable is taken, and its score is its stability."""
        coords_xy, labels = prompt_points(prompt)
        feed = {
            "image_embeddings": self.features,
            "point_coords": self.to_model(coords_xy)[None],
            "point_labels": labels[None],
        }
        scores, masks = self.decoder.run(None, feed)
        best = int(np.argmax(stability_score(masks[0], 0.0, 1.0)))
        tokens = (best,) if masks.shape[1] == len(ALL_TOKENS) else None
        return Answer(masks[0, best : best + 1], scores[0, best : best + 1], tokens)
