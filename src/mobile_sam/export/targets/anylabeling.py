"""AnyLabeling and X-AnyLabeling, `type: segment_anything`: load config.yaml as a custom model.

mobile_sam.encoder.onnx   image (h, w, 3) float32, RGB, 0 to 255 -> image_embeddings (1, 256, 64, 64)
mobile_sam.decoder.onnx   SAM's contract (`mobile_sam.export.targets.sam_onnx`) with one mask
config.yaml               what both programs read

Both programs draw the picture on a canvas of 1024 x 684 px first, whatever its shape.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.core.prompts import LABEL_PADDING, Prompt
from mobile_sam.export.contract_modules import (
    LabelledDecoder,
    PixelEncoder,
    require_sam_frame,
    sam_decoder_spec,
    write_graph,
)
from mobile_sam.export.contract_runner import open_session, prompt_points
from mobile_sam.export.graphs import GraphSpec
from mobile_sam.export.runner import Answer
from mobile_sam.export.target import Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.sam import Sam
from mobile_sam.utils.onnx import SamOnnxModel

ENCODER_FILE, DECODER_FILE, CONFIG_FILE = "mobile_sam.encoder.onnx", "mobile_sam.decoder.onnx", "config.yaml"
CANVAS_HW = (684, 1024)

# The last three keys are read by both programs, which stop without them, and used by neither.
CONFIG = f"""\
type: segment_anything
name: mobile_sam
provider: Others
display_name: MobileSAM
encoder_model_path: {ENCODER_FILE}
decoder_model_path: {DECODER_FILE}
input_size: 1024
max_width: 1024
max_height: 682
"""

PORTRAIT_NOTE = (
    f"The program shrinks every picture to fit into {CANVAS_HW[1]} x {CANVAS_HW[0]} px (width x height), so that "
    "upright pictures lose detail and masks are coarser; in X-AnyLabeling the target edge-sam has no such canvas."
)
NAME_NOTE = f"Each custom model needs a `name` of its own in {CONFIG_FILE}."


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`; the bounds are what the canvas lets through, not what the graphs lose."""
    return TargetSpec(
        name="anylabeling",
        summary="AnyLabeling and X-AnyLabeling, type segment_anything",
        precisions=("fp32",),
        extra="export",
        packages=("onnx", "onnxruntime"),
        bounds={"fp32": Bound(embedding_error=0.0, mask_iou_mean=0.7, mask_iou_min=0.0)},
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: a model of another input side.
    """
    require_sam_frame(sam, "AnyLabeling")
    write_graph(
        GraphSpec(
            ENCODER_FILE, PixelEncoder(sam, channels_last=True), (torch.full((*CANVAS_HW, 3), 127.0),), ("image",),
            ("image_embeddings",), {"image": {0: "height", 1: "width"}},
        ),
        folder,
    )  # fmt: skip
    decoder = LabelledDecoder(SamOnnxModel(sam, return_single_mask=True)).eval()
    write_graph(sam_decoder_spec(sam, decoder, DECODER_FILE), folder)
    (folder / CONFIG_FILE).write_text(CONFIG, encoding="utf-8")
    return Written({"encoder": ENCODER_FILE, "decoder": DECODER_FILE}, notes=(PORTRAIT_NOTE, NAME_NOTE))


def open_runner(folder: Path, num_threads: int = 0) -> AnyLabelingRunner:
    """See `mobile_sam.export.targets`."""
    return AnyLabelingRunner(folder, num_threads)


class AnyLabelingRunner:
    """Runs the files as AnyLabeling does: by a canvas of fixed size, and by positions rather than names."""

    def __init__(self, folder: Path, num_threads: int = 0) -> None:
        self.encoder = open_session(folder / ENCODER_FILE, num_threads)
        self.decoder = open_session(folder / DECODER_FILE, num_threads)
        self._features = np.zeros((0,), np.float32)
        self._image_hw, self._scale = CANVAS_HW, 1.0

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runner.encode`; empty, since the features are those of the canvas and not of the picture."""
        import cv2

        height, width, _ = image.shape
        self._image_hw, self._scale = (height, width), min(CANVAS_HW[0] / height, CANVAS_HW[1] / width)
        canvas = cv2.warpAffine(image, self._matrix(self._scale), CANVAS_HW[::-1], flags=cv2.INTER_LINEAR)
        (name,) = (one.name for one in self.encoder.get_inputs())
        self._features = self.encoder.run(None, {name: canvas.astype(np.float32)})[0]
        return np.zeros((0,), np.float32)

    @staticmethod
    def _matrix(scale: float) -> NDArray[np.float64]:
        return np.array([[scale, 0, 0], [0, scale, 0]], np.float64)

    def decode(self, prompt: Prompt) -> Answer:
        """See `Runner.decode`; the program adds a padding point to every prompt."""
        coords_xy, labels = prompt_points(prompt)
        coords_xy = np.concatenate([coords_xy * np.float32(self._scale), np.zeros((1, 2), np.float32)])
        feed = {
            "image_embeddings": self._features,
            "point_coords": coords_xy[None].astype(np.float32),
            "point_labels": np.append(labels, np.float32(LABEL_PADDING))[None].astype(np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(CANVAS_HW, np.float32),
        }
        masks, scores, _ = self.decoder.run(None, feed)
        return Answer(masks[0][:1], scores[0][:1], None)

    def draw(self, answer: Answer) -> NDArray[np.bool_]:
        """See `Runner.draw`."""
        import cv2

        height, width = self._image_hw
        back = self._matrix(1 / self._scale)
        logits = [cv2.warpAffine(one, back, (width, height), flags=cv2.INTER_LINEAR) for one in answer.masks]
        return np.stack(logits) > 0
