"""An engine over graphs that `mobile-sam export` wrote, on whichever runtime they are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.core.prompts import LABEL_ABSENT, LOW_RES_STRIDE, PromptBatch
from mobile_sam.engines.base import Engine
from mobile_sam.engines.runtimes import Graph, open_graph


class ExportedEngine(Engine):
    """Runs an encoder and a decoder that were exported, with the shapes they were exported for.

    Fewer points than the decoder is fixed to are filled up with absent ones, fewer prompts by repeating one.

    Args:
        folder: what `mobile-sam export` wrote.
        num_threads: CPU threads; 0 is the runtime's own choice.

    Raises:
        WeightsError: files that are missing or damaged. MissingDependencyError: the runtime is not installed.
        ValueError: an export that no runtime here runs.
    """

    def __init__(self, folder: str | Path, *, num_threads: int = 0) -> None:
        self.folder = Path(folder)
        self.manifest = ExportManifest.read(self.folder)
        if self.manifest.runtime is None or not {"encoder", "decoder"} <= set(self.manifest.graphs):
            raise ValueError(f"{self.folder} was exported for {self.manifest.target}, which does not run here")
        self.manifest.check_files(self.folder)
        self.name = self.manifest.runtime
        self.precision = self.manifest.precision
        self._num_threads = num_threads
        self._graphs: dict[str, Graph] = {role: self._open(role) for role in ("encoder", "decoder")}
        self.prompts_at_once = self.manifest.num_prompts or self.prompts_at_once

    @property
    def model_id(self) -> str:
        """See `Engine.model_id`."""
        return self.manifest.model_id

    @property
    def input_side(self) -> int:
        """See `Engine.input_side`."""
        return self.manifest.input_side

    def _open(self, role: str) -> Graph:
        path = self.folder / self.manifest.graphs[role]
        assert self.manifest.runtime is not None
        return open_graph(self.manifest.runtime, path, num_threads=self._num_threads, precision=self.manifest.precision)

    def normalise_and_pad(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.normalise_and_pad`; for a graph that does so itself, (3, S, S) pixels and NaN as the padding."""
        if not self.manifest.has_preprocessing:
            return super().normalise_and_pad(pixels)
        h, w, _ = pixels.shape
        padded = np.full((3, self.input_side, self.input_side), np.nan, np.float32)
        padded[:, :h, :w] = pixels.transpose(2, 0, 1)
        return padded

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_input`; pictures are encoded one by one.

        Raises:
            ValueError: a picture that does not fit into the aspect ratio that was exported.
        """
        return np.concatenate([self._graphs["encoder"](self.encoder_inputs(one))[0] for one in model_input])

    def encoder_inputs(self, model_input: NDArray[np.float32]) -> list[NDArray[Any]]:
        """What the graph is fed of one picture that `normalise_and_pad` made, (3, S, S)."""
        h, w = self.manifest.input_hw
        self._check_fits(model_input)
        part = model_input[:, :h, :w]
        if not self.manifest.has_preprocessing:
            return [np.ascontiguousarray(part[None])]
        is_valid = ~np.isnan(part[0])
        valid_hw = np.array([is_valid[:, 0].sum(), is_valid[0].sum()], np.float32)
        return [np.ascontiguousarray(np.nan_to_num(part).transpose(1, 2, 0)).astype(np.uint8), valid_hw]

    def _check_fits(self, model_input: NDArray[np.float32]) -> None:
        h, w = self.manifest.input_hw
        beyond = [model_input[:, h:], model_input[:, :, w:]]
        padding = np.nan if self.manifest.has_preprocessing else 0.0
        if any(not np.array_equal(part, np.full_like(part, padding), equal_nan=True) for part in beyond):
            raise ValueError(
                f"this export takes pictures that fit into {w} x {h} px (width x height) when their longer side is "
                f"{self.input_side} px, and this one does not; export with another --input-size, or turn the picture"
            )

    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if prompts.mask_logits is not None and len(prompts) > 1:  # the graphs take one mask for all prompts
            answers = [self._decode_some(embedding, prompts[row : row + 1], mask_tokens) for row in range(len(prompts))]
            return np.concatenate([logits for logits, _ in answers]), np.concatenate([iou for _, iou in answers])
        logits, iou = self._graphs["decoder"]([embedding.features, *self.decoder_inputs(embedding, prompts)])
        tokens = list(mask_tokens)
        return logits[: len(prompts), tokens], iou[: len(prompts), tokens]

    def decoder_inputs(self, embedding: Embedding, prompts: PromptBatch) -> list[NDArray[np.float32]]:
        """What the decoder is fed beside the features: coordinates, labels, mask, whether there is one."""
        coords_xy, labels = self.fit_points(prompts)
        side = embedding.input_side // LOW_RES_STRIDE
        masks = prompts.mask_logits
        if masks is None:
            return [coords_xy, labels, np.zeros((1, 1, side, side), np.float32), np.zeros(1, np.float32)]
        return [coords_xy, labels, masks[:1].astype(np.float32), prompts.has_mask[:1].astype(np.float32)]

    def fit_points(self, prompts: PromptBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fill up prompts to the fixed numbers of the graph: (P, N, 2) coordinates and (P, N) labels, float32.

        Raises:
            ValueError: more points than the graph takes.
        """
        coords_xy, labels = prompts.coords_xy, prompts.labels
        num_points, num_prompts = self.manifest.num_points, self.manifest.num_prompts
        if num_points is not None:
            missing = num_points - labels.shape[1]
            if missing < 0:
                raise ValueError(
                    f"this export takes {num_points} points a prompt, with two for a box and one of SAM's own without, "
                    f"got {labels.shape[1]}; export with a greater --num-points"
                )
            coords_xy = np.pad(coords_xy, ((0, 0), (0, missing), (0, 0)))
            labels = np.pad(labels, ((0, 0), (0, missing)), constant_values=LABEL_ABSENT)
        if num_prompts is not None:
            rows = np.minimum(np.arange(num_prompts), len(labels) - 1)
            coords_xy, labels = coords_xy[rows], labels[rows]
        return np.ascontiguousarray(coords_xy, np.float32), np.ascontiguousarray(labels, np.float32)

    def segment_jointly(
        self, image: NDArray[np.float32], prompts: PromptBatch
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the joint graph, from the picture to the masks of at most `prompts_at_once` prompts.

        Args:
            image: (3, S, S), as `normalise_and_pad` made it.
            prompts: without masks.

        Returns:
            Logits (P, 4, S/4, S/4) and predicted IoU (P, 4).

        Raises:
            ValueError: no joint graph was exported.
        """
        if "joint" not in self.manifest.graphs:
            raise ValueError(f"{self.folder} has no joint graph; export with --joint")
        if "joint" not in self._graphs:
            self._graphs["joint"] = self._open("joint")
        inputs: Sequence[NDArray[Any]] = [*self.encoder_inputs(image), *self.fit_points(prompts)]
        logits, iou = self._graphs["joint"](inputs)
        return logits[: len(prompts)], iou[: len(prompts)]
