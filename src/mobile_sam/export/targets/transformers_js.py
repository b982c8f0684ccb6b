"""transformers.js `SamModel`: a folder that `SamModel.from_pretrained` and `AutoProcessor.from_pretrained` load.

onnx/vision_encoder.onnx              pixel_values (B, 3, 1024, 1024)
                                      -> image_embeddings (B, 256, 64, 64), image_positional_embeddings likewise
onnx/prompt_encoder_mask_decoder.onnx image_embeddings, image_positional_embeddings, input_points (B, P, N, 2),
                                      input_labels (B, P, N) int64
                                      -> iou_scores (B, P, 3), pred_masks (B, P, 3, 256, 256)
config.json, preprocessor_config.json what the library reads

Floats are float32 at the border in every precision. Labels: 1 the object, 0 not the object, -1 padding, -10 a place
that holds nothing, and SAM's own 2 and 3 for the corners of a box, since the library does not send boxes without
points. SAM's padding point is added by the graph. fp16 files end in _fp16, int8 files in _quantized (the library's
dtypes "fp16" and "q8").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobile_sam.core.geometry import INPUT_SIDE, PIXEL_MEAN, PIXEL_STD, LongSideResize
from mobile_sam.core.predictions import MULTI_MASK
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.contract_modules import PointDecoder, quantize_weights, require_sam_frame, write_graph
from mobile_sam.export.contract_runner import FrameRunner, normalise_and_pad, prompt_points
from mobile_sam.export.fp16_onnx import to_mixed_precision
from mobile_sam.export.graphs import GraphSpec
from mobile_sam.export.runner import Answer
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.sam import Sam

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
ENCODER, DECODER = "vision_encoder", "prompt_encoder_mask_decoder"
GRAPHS_FOLDER = "onnx"
CONFIG = {"model_type": "sam", "architectures": ["SamModel"]}
PREPROCESSOR_CONFIG = {
    "processor_class": "SamProcessor",
    "image_processor_type": "SamImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"longest_edge": INPUT_SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [mean / 255 for mean in PIXEL_MEAN],
    "image_std": [std / 255 for std in PIXEL_STD],
    "do_pad": True,
    "pad_size": {"height": INPUT_SIDE, "width": INPUT_SIDE},
}


ROUNDING_NOTE = (
    "transformers.js rounds the shorter side of the resized picture down where SAM rounds to the nearest, and resizes "
    "with another filter, so that masks differ a little more from SAM's than the graphs do."
)
BOX_NOTE = "For a box, pass its corners as two points with the labels 2 and 3."


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`; what the library's rounding costs is within the bounds of the masks."""
    return TargetSpec(
        name="transformers-js",
        summary="SamModel of transformers.js, in browsers and Node.js",
        precisions=tuple(SUFFIXES),
        extra="export",
        packages=("onnx", "onnxruntime"),
        bounds={
            "fp32": Bound(FP32_BOUND.embedding_error, 0.98, 0.5),
            "fp16": Bound(0.02, 0.97, 0.4),
            "int8": Bound(0.15, 0.9, 0.0),
        },
    )


class VisionEncoder(nn.Module):
    """The image encoder, with the positions that the decoder asks for."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.image_encoder, self.prompt_encoder = sam.image_encoder, sam.prompt_encoder

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode: see the module's docstring."""
        features = self.image_encoder(pixel_values)  # (B, 256, 64, 64)
        return features, self.prompt_encoder.get_dense_pe().expand(features.shape[0], -1, -1, -1)


class PromptMaskDecoder(nn.Module):
    """The decoder for B pictures with P prompts of N points each."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.decoder = PointDecoder(sam)

    def forward(
        self, image_embeddings: Tensor, image_positional_embeddings: Tensor, input_points: Tensor, input_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode: see the module's docstring."""
        B, P, N, _ = input_points.shape
        _, C, h, w = image_embeddings.shape
        features = image_embeddings[:, None].expand(B, P, C, h, w).reshape(B * P, C, h, w)
        iou, logits = self.decoder(
            features,
            input_points.reshape(B * P, N, 2),
            input_labels.reshape(B * P, N).to(input_points.dtype),
            image_positional_embeddings[:1],
        )
        logits = logits[:, 1:]  # (B * P, 3, 256, 256)
        return iou[:, 1:].reshape(B, P, 3), logits.reshape(B, P, 3, *logits.shape[2:])


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: a model of another input side.
    """
    require_sam_frame(sam, "transformers.js")
    precision = options.precision or "fp32"
    encoder_file, decoder_file = (f"{name}{SUFFIXES[precision]}.onnx" for name in (ENCODER, DECODER))
    for one in (_encoder_spec(sam, encoder_file), _decoder_spec(sam, decoder_file)):
        path = write_graph(one, folder / GRAPHS_FOLDER)
        if precision == "fp16":
            _to_fp16(path)
        elif precision == "int8":
            # with its convolutions quantized the encoder sees next to nothing
            quantize_weights(path, ("MatMul",), per_channel=True)
    for name, content in (("config.json", CONFIG), ("preprocessor_config.json", PREPROCESSOR_CONFIG)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Written(
        {"encoder": f"{GRAPHS_FOLDER}/{encoder_file}", "decoder": f"{GRAPHS_FOLDER}/{decoder_file}"},
        notes=(ROUNDING_NOTE, BOX_NOTE),
    )


def _encoder_spec(sam: Sam, file_name: str) -> GraphSpec:
    outputs = ("image_embeddings", "image_positional_embeddings")
    axes = {name: {0: "batch_size"} for name in ("pixel_values", *outputs)}
    image = torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE)
    return GraphSpec(file_name, VisionEncoder(sam).eval(), (image,), ("pixel_values",), outputs, axes)


def _decoder_spec(sam: Sam, file_name: str) -> GraphSpec:
    features = torch.zeros(2, 256, 64, 64)
    pictures, prompts = {0: "batch_size"}, {0: "batch_size", 1: "point_batch_size"}
    points = prompts | {2: "nb_points_per_image"}
    return GraphSpec(
        file_name, PromptMaskDecoder(sam).eval(),
        (features, features, torch.full((2, 3, 4, 2), 100.0), torch.ones(2, 3, 4, dtype=torch.int64)),
        ("image_embeddings", "image_positional_embeddings", "input_points", "input_labels"),
        ("iou_scores", "pred_masks"),
        {
            "image_embeddings": pictures, "image_positional_embeddings": pictures, "input_points": points,
            "input_labels": points, "iou_scores": prompts, "pred_masks": prompts,
        },
    )  # fmt: skip


def _to_fp16(path: Path) -> None:
    """Compute in float16, with float32 at the border, in normalisations and wherever else float16 goes wrong."""
    import onnx

    onnx.save(to_mixed_precision(onnx.load(path)), path)


def open_runner(folder: Path, num_threads: int = 0) -> TransformersJsRunner:
    """See `mobile_sam.export.targets`."""
    encoder, decoder = (next((folder / GRAPHS_FOLDER).glob(f"{name}*.onnx")) for name in (ENCODER, DECODER))
    return TransformersJsRunner(encoder, decoder, num_threads)


class TransformersJsRunner(FrameRunner):
    """Runs the files as `SamProcessor` and `SamModel` do."""

    positions: NDArray[np.float32]

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runner.encode`; empty where the library's rounding makes another frame than SAM's of the picture."""
        from PIL import Image

        self.image_hw = height, width = image.shape[0], image.shape[1]
        scale = min(INPUT_SIDE / width, INPUT_SIDE / height)
        self.input_hw = int(round(height * scale, 2)), int(round(width * scale, 2))  # rounded down, unlike SAM
        pixels = np.array(Image.fromarray(image).resize(self.input_hw[::-1], Image.Resampling.BILINEAR))
        self.features, self.positions = self.encoder.run(None, {"pixel_values": normalise_and_pad(pixels)})
        is_sams = self.input_hw == LongSideResize(self.image_hw).input_hw
        return self.features if is_sams else np.zeros((0,), np.float32)

    def decode(self, prompt: Prompt) -> Answer:
        """See `Runner.decode`."""
        coords_xy, labels = prompt_points(prompt)
        feed: dict[str, NDArray[Any]] = {
            "image_embeddings": self.features,
            "image_positional_embeddings": self.positions,
            "input_points": self.to_model(coords_xy)[None, None],
            "input_labels": labels.astype(np.int64)[None, None],
        }
        scores, masks = self.decoder.run(["iou_scores", "pred_masks"], feed)
        return Answer(masks[0, 0], scores[0, 0], MULTI_MASK)
