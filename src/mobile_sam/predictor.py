"""SamPredictor: SAM's class, on any engine.

The interface is that of `segment_anything.SamPredictor` (Kirillov et al. 2023), so code written for it runs after a
change of the import line. It keeps one `Embedding` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.images import ImageSource, read_image
from mobile_sam.core.masks import upscale_logits, upscale_to_mask
from mobile_sam.core.predictions import MULTI_MASK, SINGLE_MASK, Decoded, Prediction
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.engines import Engine, make_engine
from mobile_sam.utils.transforms import ResizeLongestSide

if TYPE_CHECKING:
    import torch

    from mobile_sam.modeling.sam import Sam

IMAGE_FORMATS = ("RGB", "BGR")


def check_image_format(image_format: str) -> None:
    """Check that `image_format` is one of IMAGE_FORMATS.

    Raises:
        ValueError: it is not.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be one of {', '.join(IMAGE_FORMATS)}, got {image_format!r}")


def read_rgb(image: ImageSource, image_format: str) -> NDArray[np.uint8]:
    """Read a picture whose channels, if it is an array, are in the order of `image_format`: (H, W, 3) uint8 RGB.

    Raises:
        ValueError: an unknown format, or something that is no picture. FileNotFoundError: no such file.
    """
    check_image_format(image_format)
    pixels = read_image(image)
    is_reversed = image_format == "BGR" and isinstance(image, np.ndarray)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if is_reversed else pixels


class SamPredictor:
    """Set a picture once, then ask for the masks of points, boxes and masks.

    Args:
        model: a `Sam` module (runs on the torch engine), a checkpoint's path, an exported folder, or None for the
            bundled weights. Models for another input side S than 1024 have low-resolution logits of S/4 x S/4, not
            256 x 256.
        engine: "auto", "onnxruntime", "openvino", "torch", or an `Engine` already made, which predictors may share.
        device: see `mobile_sam.engines.make_engine`.
        precision: see `make_engine`; None for fp32, or for what a folder was exported in.
        num_threads: CPU threads; 0 is the engine's own choice.

    Raises:
        ValueError: a combination that does not exist, such as a module and an engine already made.
        MissingDependencyError: an engine that is not installed.
    """

    def __init__(
        self,
        model: Sam | str | Path | None = None,
        *,
        engine: str | Engine = "auto",
        device: str | None = None,
        precision: str | None = None,
        num_threads: int = 0,
    ) -> None:
        if isinstance(engine, Engine):
            if model is not None:
                raise ValueError("model came with an engine already made, which has a model; pass one of the two")
            self.engine = engine
        else:
            self.engine = make_engine(engine, model, device=device, precision=precision, num_threads=num_threads)
        self.model: Sam | None = getattr(self.engine, "model", None)
        self.transform = ResizeLongestSide(self.engine.input_side)
        self._embedding: Embedding | None = None

    # What is set

    @property
    def embedding(self) -> Embedding:
        """The embedding of the current picture.

        Raises:
            RuntimeError: no picture is set.
        """
        if self._embedding is None:
            raise RuntimeError("no picture is set; call set_image(picture) before asking for masks or the embedding")
        return self._embedding

    @property
    def is_image_set(self) -> bool:
        """Whether a picture is set."""
        return self._embedding is not None

    @property
    def features(self) -> Any:
        """The embedding's array as `get_image_embedding` gives it, or None."""
        return self.get_image_embedding() if self.is_image_set else None

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Height and width of the picture, or None."""
        return self._embedding.image_hw if self._embedding else None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the resized picture within the model frame, or None."""
        return self._embedding.input_hw if self._embedding else None

    @property
    def orig_h(self) -> int | None:
        """Height of the picture, or None."""
        return self.original_size[0] if self.original_size else None

    @property
    def orig_w(self) -> int | None:
        """Width of the picture, or None."""
        return self.original_size[1] if self.original_size else None

    @property
    def input_h(self) -> int | None:
        """Height of the resized picture, or None."""
        return self.input_size[0] if self.input_size else None

    @property
    def input_w(self) -> int | None:
        """Width of the resized picture, or None."""
        return self.input_size[1] if self.input_size else None

    @property
    def mask_threshold(self) -> float:
        """A pixel belongs to a mask where its logit is greater: the module's own threshold where there is one, or 0."""
        return float(getattr(self.model, "mask_threshold", 0.0))

    @property
    def device(self) -> Any:
        """The torch device; the string "cpu" on engines without torch."""
        return getattr(self.engine, "device", "cpu")

    def reset_image(self) -> None:
        """Forget the current picture."""
        self._embedding = None

    # Pictures

    def set_image(self, image: ImageSource, image_format: str = "RGB", *, unpadded: bool = False) -> None:
        """Encode a picture; the prompts that follow are about it.

        Args:
            image: (H, W, 3) uint8 (also grey, with alpha, 16-bit or float, see `mobile_sam.read_image`), a PIL
                image, or a path.
            image_format: order of an array's channels, "RGB" or "BGR". PIL images and files know their own.
            unpadded: leave out most of the padding that makes the picture a square. Not exact, and sooner from the
                second picture on; see `mobile_sam.engines.base.UNPADDED_MARGIN_PX` for the price.

        Raises:
            ValueError: something that is no picture, an unknown format, or an engine that cannot encode unpadded.
        """
        self._embedding = self.encode([image], image_format, unpadded=unpadded)[0]

    def set_torch_image(self, transformed_image: torch.Tensor, original_image_size: tuple[int, int]) -> None:
        """Encode a picture that is already resized.

        Args:
            transformed_image: (1, 3, h, w), RGB, 0 to 255, its longer side the model's input side, as
                `transform.apply_image` makes it.
            original_image_size: height and width of the picture before that.

        Raises:
            ValueError: another shape.
        """
        side, shape = self.engine.input_side, tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image must be (1, 3, h, w) with a longer side of {side}, got {shape}; "
                "use predictor.transform.apply_image first"
            )
        pixels = transformed_image[0].permute(1, 2, 0).detach().float().cpu().numpy()  # (h, w, 3)
        features = self.engine.encode_input(self.engine.normalise_and_pad(pixels)[None])
        image_h, image_w = original_image_size
        self._embedding = Embedding(features, (int(image_h), int(image_w)), (shape[2], shape[3]), self.engine.model_id)

    def encode(
        self, images: Sequence[ImageSource], image_format: str = "RGB", *, unpadded: bool = False
    ) -> list[Embedding]:
        """Encode several pictures without setting any; see `set_image` for what a picture may be."""
        return self.engine.encode([read_rgb(image, image_format) for image in images], unpadded=unpadded)

    def get_image_embedding(self) -> Any:
        """Return the features of the current picture: (1, 256, 64, 64) float32 (64 is the input side over 16).

        A tensor on the torch engine, as in SAM; an array on the others. It is a copy, so it may be written to.

        Raises:
            RuntimeError: no picture is set.
        """
        features = self.embedding.features
        if self.engine.name != "torch":
            return features.copy()
        import torch

        return torch.tensor(features, device=self.device)

    def set_embedding(self, embedding: Embedding) -> None:
        """Set the picture that `embedding` was made of, without encoding it again.

        Raises:
            ValueError: the embedding was made by other weights.
        """
        self.engine.check_made_here(embedding)
        self._embedding = embedding

    def save_embedding(self, path: str | PathLike[str]) -> None:
        """Write the current embedding to an .npz file.

        Raises:
            RuntimeError: no picture is set. ValueError: the name does not end in .npz.
        """
        self.embedding.save(path)

    def load_embedding(self, path: str | PathLike[str]) -> None:
        """Read an embedding from an .npz file and set it.

        Raises:
            FileNotFoundError: no such file. ValueError: it is damaged, or was made by another image encoder.
        """
        self.set_embedding(Embedding.load(path))

    # Prompts

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks of one object.

        Args:
            point_coords: (N, 2), x, y in pixels of the picture.
            point_labels: (N,), 1 the object, 0 not the object.
            box: (4,), x1, y1, x2, y2 in pixels of the picture.
            mask_input: (1, 256, 256) float logits of an earlier prediction, or (H, W) bool of the picture's size, which
                is converted (`mobile_sam.core.masks.mask_to_logits`).
            multimask_output: three masks for ambiguous prompts, such as one click, or one for all others.
            return_logits: float32 logits in place of bool masks.

        Returns:
            Masks (M, H, W), predicted IoU (M,) float32, low-resolution logits (M, 256, 256) float32; M is 3 or 1.

        Raises:
            RuntimeError: no picture is set. ValueError: prompts that are wrong, see `Prompt.of`.
        """
        if point_coords is not None and point_labels is None:
            raise ValueError("point_coords came without point_labels; pass one label for each point: 1 object, 0 not")
        prompt = Prompt.of(point_coords, point_labels, box, mask_input)
        (prediction,) = self.predict_batch([prompt], multimask_output, return_logits)
        return prediction.masks, prediction.iou_predictions, prediction.low_res_logits

    def predict_batch(
        self, prompts: Sequence[Prompt], multimask_output: bool = True, return_logits: bool = False
    ) -> list[Prediction]:
        """Masks of many objects of the picture, each with points, box and mask of its own.

        The answers are those of `predict` for each prompt alone.

        Args:
            prompts: made with `Prompt.of`; numbers of points may differ.
            multimask_output: three masks for each prompt, or one.
            return_logits: float32 logits in place of bool masks.

        Returns:
            One `Prediction` for each prompt: masks (M, H, W), predicted IoU (M,), low-resolution logits (M, 256, 256).

        Raises:
            RuntimeError: no picture is set. ValueError: a prompt outside the picture, or a mask of another size.
        """
        embedding = self.embedding
        for prompt in prompts:
            prompt.check_inside(embedding.image_hw)
        batch = PromptBatch.from_prompts(prompts, embedding.resize)
        tokens = MULTI_MASK if multimask_output else SINGLE_MASK
        predictions: list[Prediction] = []
        for part in self.engine.decode_by_parts(embedding, batch, tokens):
            predictions += self._full_size(part, embedding, return_logits)
        return predictions

    def predict_torch(
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks of P prompts with coordinates already in the model frame (`transform.apply_coords_torch`).

        Args:
            point_coords: (P, N, 2).
            point_labels: (P, N).
            boxes: (P, 4) XYXY.
            mask_input: (P, 1, 256, 256) logits.
            multimask_output: three masks for each prompt, or one.
            return_logits: float32 logits in place of bool masks.

        Returns:
            Masks (P, M, H, W), predicted IoU (P, M), low-resolution logits (P, M, 256, 256), on the model's device.

        Raises:
            RuntimeError: no picture is set. ValueError: no prompt, wrong shapes, or counts that differ.
        """
        from mobile_sam.engines.tensors import predict_tensors

        tokens = MULTI_MASK if multimask_output else SINGLE_MASK
        logits, iou, low_res = predict_tensors(
            self.engine, self.embedding, (point_coords, point_labels, boxes, mask_input), tokens
        )
        return (logits if return_logits else logits > self.mask_threshold), iou, low_res

    def _full_size(self, decoded: Decoded, embedding: Embedding, return_logits: bool) -> list[Prediction]:
        """Bring the masks of some prompts to the picture's size."""
        sizes = (embedding.input_hw, embedding.image_hw)
        side = embedding.input_side
        predictions = []
        for low_res, iou in zip(decoded.low_res_logits, decoded.iou_predictions, strict=True):
            masks: NDArray[Any] = np.empty(
                (len(low_res), *embedding.image_hw), np.float32 if return_logits else np.bool_
            )
            for row, logits in enumerate(low_res):
                masks[row] = (
                    upscale_logits(logits, *sizes, side=side)
                    if return_logits
                    else upscale_to_mask(logits, *sizes, self.mask_threshold, side)
                )
            predictions.append(Prediction(masks, iou, low_res))
        return predictions
