"""SamAutomaticMaskGenerator: SAM's class for "segment everything", on any engine.

The interface is that of `segment_anything.SamAutomaticMaskGenerator` (Kirillov et al. 2023), and in exact mode so are
the masks. How they come about differs: see docs/architecture.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.grids import crop_boxes, layer_point_grids
from mobile_sam.core.images import ImageSource
from mobile_sam.core.masks import decode_rle
from mobile_sam.core.regions import remove_small_holes_and_islands
from mobile_sam.core.selection import nms_boxes
from mobile_sam.engines import Engine
from mobile_sam.everything.adaptive import propose_where_needed
from mobile_sam.everything.boxes import BoxPrompts
from mobile_sam.everything.candidates import Candidates
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.everything.found import Box, FoundMask, Record
from mobile_sam.everything.prompted import masks_of_prompts
from mobile_sam.everything.proposals import PointDecoder, propose_everywhere
from mobile_sam.everything.selection import clean_regions, select, select_between_crops, without_small_regions
from mobile_sam.predictor import SamPredictor, read_rgb
from mobile_sam.utils.amg import batched_mask_to_box, mask_to_rle_pytorch
from mobile_sam.utils.mask_data import MaskData, to_array

if TYPE_CHECKING:
    from mobile_sam.modeling.sam import Sam

Progress = Callable[[int, int], None]
"""Told how many prompts are done with, and how many there are."""

logger = logging.getLogger(__name__)


class SamAutomaticMaskGenerator:
    """Masks of everything in a picture.

    Settings can be read, and changed between pictures, under SAM's names (`generator.pred_iou_thresh = 0.9`).

    Args:
        model: a `Sam` module (runs on the torch engine), a checkpoint's path, a model folder, or None for the bundled
            weights.
        points_per_side: of the grid, 1 to 1024; this and the next up to `output_mode` come in SAM's order, and
            `EverythingConfig` says more of each.
        points_per_batch: points decoded together at most.
        pred_iou_thresh: least predicted IoU, not included; 0 or less for no limit.
        stability_score_thresh: least stability score, 0 to 1.
        stability_score_offset: shift of the mask threshold that it is measured with, in logits.
        box_nms_thresh: most IoU of the boxes of two masks, 0 to 1.
        crop_n_layers: layers of crops, 0 to 6.
        crop_nms_thresh: most IoU of the boxes of two masks of different crops, 0 to 1.
        crop_overlap_ratio: overlap of crops as a share of the shorter side, 0 to 1.
        crop_n_points_downscale_factor: divides points per side once for each layer.
        point_grids: in place of points_per_side, (N, 2) x, y for each layer, as shares of the sides, 0 to 1.
        min_mask_region_area: least area of holes and islands, in pixels.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".
        mode: "exact" or "fast".
        engine: "auto", "onnxruntime", "torch", or an `Engine` already made.
        device: see `mobile_sam.engines.make_engine`.
        precision: see `mobile_sam.engines.make_engine`.
        num_threads: CPU threads for onnxruntime; 0 is its own choice.

    Attributes:
        config: all settings.
        predictor: the `SamPredictor` whose engine runs; it has no picture set.
        num_points: how many points were decoded for the last picture.

    Raises:
        ValueError: a setting out of its range, or a combination that does not exist, see `SamPredictor`.
        MissingDependencyError: an engine that is not installed.
    """

    config: EverythingConfig
    predictor: SamPredictor

    def __init__(
        self,
        model: Sam | str | Path | None = None,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[NDArray[np.float64]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        *,
        mode: str = "exact",
        engine: str | Engine = "auto",
        device: str | None = None,
        precision: str | None = None,
        num_threads: int = 0,
    ) -> None:
        self.config = EverythingConfig(
            mode=mode,
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            point_grids=point_grids,
            min_mask_region_area=min_mask_region_area,
            output_mode=output_mode,
        )
        self.predictor = SamPredictor(model, engine=engine, device=device, precision=precision, num_threads=num_threads)
        self.num_points = 0

    @classmethod
    def from_config(cls, config: EverythingConfig, engine: str | Engine = "auto") -> SamAutomaticMaskGenerator:
        """Make a generator with these settings, for the bundled weights or an engine already made."""
        if not isinstance(config, EverythingConfig):
            raise ValueError(f"config must be an EverythingConfig, got {type(config).__name__}")
        return cls(**{known.name: getattr(config, known.name) for known in fields(config)}, engine=engine)

    def __getattr__(self, name: str) -> Any:
        """Read a setting by its name; `point_grids` are those in effect, also where `points_per_side` made them."""
        if name == "point_grids":
            return list(self._grids())
        if name in EverythingConfig.__dataclass_fields__:
            return getattr(self.config, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a setting by its name, checked as in the constructor; grids and points per side replace each other."""
        if name in EverythingConfig.__dataclass_fields__:
            changes: dict[str, Any] = {name: value}
            if name in ("point_grids", "points_per_side") and value is not None:
                changes = {"point_grids": None, "points_per_side": None, name: value}
            super().__setattr__("config", replace(self.config, **changes))
        else:
            super().__setattr__(name, value)

    def generate(self, image: ImageSource, progress: Progress | None = None) -> list[Record]:
        """Find the masks of everything in one picture.

        Args:
            image: (H, W, 3) uint8 RGB (also grey, with alpha, 16-bit or float, see `mobile_sam.read_image`), a PIL
                image, or a path.
            progress: told how many points are done with, decoded or passed over, and how many there are.

        Returns:
            A record for each mask, by falling predicted IoU; with crops, those of smaller crops come first, and with
            `min_mask_region_area` those that it did not change:

            - segmentation: see `OUTPUT_MODES`;
            - area: in pixels;
            - bbox: x, y, width, height in pixels, where width is the last column minus the first, as in SAM;
            - predicted_iou: the model's own guess;
            - point_coords: [[x, y]], the prompt in pixels of the picture;
            - stability_score: IoU of the masks cut at the threshold plus and minus `stability_score_offset`;
            - crop_box: x, y, width, height of the part of the picture that it was found in.

        Raises:
            ValueError: something that is no picture. FileNotFoundError: no such file.
        """
        pixels = read_rgb(image, "RGB")
        return [mask.to_record(self.config.output_mode) for mask in self._find(pixels, progress)]

    def generate_from_embedding(self, embedding: Embedding, progress: Progress | None = None) -> list[Record]:
        """Find the masks of everything in a picture that is encoded already.

        Args:
            embedding: made by this engine, or by another one with the same image encoder.
            progress: as for `generate`; an exception that it raises ends the search.

        Returns:
            The records of `generate`.

        Raises:
            ValueError: settings with crops, which have to be encoded; an embedding of another encoder.
        """
        if self.config.crop_n_layers:
            raise ValueError(
                f"crop_n_layers must be 0, got {self.config.crop_n_layers}: crops are parts of the picture that are "
                "encoded anew, and an embedding has no pixels; use generate with the picture"
            )
        grid, (height, width) = self._grids()[0], embedding.image_hw
        count = _Count(len(grid), progress)
        self.num_points = 0
        found = self._find_in_embedding(embedding, (0, 0, width, height), grid, embedding.image_hw, count)
        return [mask.to_record(self.config.output_mode) for mask in self._cleaned(found)]

    def generate_many(self, images: Iterable[ImageSource]) -> Iterator[list[Record] | None]:
        """Find the masks of several pictures, one after the other.

        Returns:
            An iterator over what `generate` returns for each picture, in order, as soon as it is there; None, and a
            line in the log, for a picture that cannot be read.

        Raises:
            ValueError: one picture in place of several.
        """
        if isinstance(images, (str, PathLike, np.ndarray)) or not isinstance(images, Iterable):
            raise ValueError(
                f"images must be several pictures, got one {type(images).__name__}; use generate, or [image]"
            )
        return self._generate_each(images)

    def _generate_each(self, images: Iterable[ImageSource]) -> Iterator[list[Record] | None]:
        for image in images:
            try:
                pixels = read_rgb(image, "RGB")
            except (ValueError, OSError) as error:
                logger.error("left out a picture that cannot be read: %s", error)
                yield None
            else:
                yield self.generate(pixels)

    def generate_from_boxes(
        self, image: ImageSource | Embedding, boxes: Any, progress: Progress | None = None
    ) -> list[Record]:
        """Make a mask for each box of any detector, with one encoding however many boxes there are.

        Args:
            image: as for `generate`; or the picture's embedding, made by this engine or one with the same encoder.
            boxes: (N, 4) x1, y1, x2, y2 in pixels of the picture, a `supervision.Detections`, or what
                `mobile_sam.data.mask_files.read_detections` has of a picture.
            progress: told how many boxes are done with, and how many there are.

        Returns:
            N records in the order of the boxes, none left out. They are as those of `generate`, but `point_coords` is
            empty, `box` is the prompt, and `score` and `category_id` are there if they are known. An empty mask has
            area 0 and zeros as bbox.

        Raises:
            ValueError: no picture, or boxes that are malformed or outside of it; an embedding of another encoder.
            FileNotFoundError: no such file.
        """
        config, engine = self.config, self.predictor.engine
        seen = image if isinstance(image, Embedding) else read_rgb(image, "RGB")
        asked = BoxPrompts.of(boxes, seen.image_hw if isinstance(seen, Embedding) else (seen.shape[0], seen.shape[1]))
        if not asked.prompts:
            return []
        found = masks_of_prompts(
            engine,
            seen if isinstance(seen, Embedding) else engine.encode([seen])[0],
            asked.prompts,
            mask_threshold=self.predictor.mask_threshold,
            stability_score_offset=config.stability_score_offset,
            prompts_at_once=config.points_per_batch,
            tell=_Count(len(asked.prompts), progress).add,
        )
        if config.min_mask_region_area > 0:
            found = [without_small_regions(mask, config.min_mask_region_area)[0] for mask in found]
        return [mask.to_record(config.output_mode) | asked.facts(row) for row, mask in enumerate(found)]

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Fill small holes, remove small islands, and drop boxes that then overlap, as SAM's method of this name does.

        Args:
            mask_data: with `rles` (uncompressed) and `boxes` (N, 4) XYXY, tensor or array; changed in place.
            min_area: holes and islands of fewer pixels go.
            nms_thresh: of two boxes with a greater IoU one goes, rather one whose mask was changed.

        Returns:
            The same object.
        """
        boxes = to_array(mask_data["boxes"]).astype(np.float64)  # (N, 4), a copy
        rles = list(mask_data["rles"])
        is_changed = np.zeros(len(rles), bool)
        for row, rle in enumerate(rles):
            mask, is_changed[row] = remove_small_holes_and_islands(decode_rle(rle), min_area)
            if is_changed[row]:
                (rles[row],), boxes[row] = mask_to_rle_pytorch(mask[None]), batched_mask_to_box(mask)
                for column, value in enumerate(boxes[row].tolist()):
                    mask_data["boxes"][row, column] = value
        mask_data["rles"] = rles
        mask_data.filter(nms_boxes(boxes, np.where(is_changed, 0.0, 1.0), nms_thresh))
        return mask_data

    def _find(self, pixels: NDArray[np.uint8], progress: Progress | None) -> list[FoundMask]:
        """Find the masks in (H, W, 3) uint8 RGB."""
        config, image_hw = self.config, (pixels.shape[0], pixels.shape[1])
        boxes, layers = crop_boxes(image_hw, config.crop_n_layers, config.crop_overlap_ratio)
        grids = self._grids()
        count = _Count(sum(len(grids[layer]) for layer in layers), progress)
        self.num_points = 0
        found: list[FoundMask] = []
        for (x1, y1, x2, y2), layer in zip(boxes, layers, strict=True):
            found += self._find_in_crop(pixels[y1:y2, x1:x2], (x1, y1, x2, y2), grids[layer], image_hw, count)
        if len(boxes) > 1:
            found = select_between_crops(found, config.crop_nms_thresh)
        return self._cleaned(found)

    def _cleaned(self, found: list[FoundMask]) -> list[FoundMask]:
        """Fill small holes and remove small islands, where the settings ask for it."""
        config = self.config
        if config.min_mask_region_area == 0:
            return found
        return clean_regions(found, config.min_mask_region_area, max(config.box_nms_thresh, config.crop_nms_thresh))

    def _find_in_crop(
        self,
        pixels: NDArray[np.uint8],
        crop_box: Box,
        grid: NDArray[np.float64],
        image_hw: tuple[int, int],
        count: _Count,
    ) -> list[FoundMask]:
        """Find the masks in a crop (h, w, 3), with a grid of points as shares of its sides."""
        (embedding,) = self.predictor.engine.encode([np.ascontiguousarray(pixels)])
        return self._find_in_embedding(embedding, crop_box, grid, image_hw, count)

    def _find_in_embedding(
        self,
        embedding: Embedding,
        crop_box: Box,
        grid: NDArray[np.float64],
        image_hw: tuple[int, int],
        count: _Count,
    ) -> list[FoundMask]:
        """Find the masks in a crop by its embedding."""
        crop_h, crop_w = embedding.image_hw
        points_xy = grid * (crop_w, crop_h)
        candidates = Candidates(embedding, self.config, self.predictor.mask_threshold)
        decoder = PointDecoder(self.predictor.engine, points_xy, candidates)
        if self.config.mode == "fast":
            propose_where_needed(decoder, grid, count.add)
        else:
            propose_everywhere(decoder, count.add)
        self.num_points += decoder.num_decoded
        return select(candidates, points_xy, crop_box, image_hw)

    def _grids(self) -> Sequence[NDArray[np.float64]]:
        """Points as shares of the crop's sides, (N, 2) for each layer."""
        config = self.config
        if config.point_grids is not None:
            return config.point_grids
        assert config.points_per_side is not None
        return layer_point_grids(config.points_per_side, config.crop_n_layers, config.crop_n_points_downscale_factor)


class _Count:
    """Counts what is done with, for a progress bar."""

    def __init__(self, num_all: int, progress: Progress | None) -> None:
        self.num_all, self.num_done, self.progress = num_all, 0, progress

    def add(self, num: int) -> None:
        self.num_done += num
        if self.progress:
            self.progress(self.num_done, self.num_all)
