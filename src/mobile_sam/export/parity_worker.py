"""One variant of a parity report in a process of its own, so that its start-up and its memory are its own.

`ParityWorker` is the variant's end, `ParityProcess` the report's; see `mobile_sam.evaluate.worker_process`. Nothing is
imported on top that a variant might not need: its memory is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mobile_sam.evaluate import worker_process
from mobile_sam.evaluate.worker_process import Answer, Command, open_answers, peak, read_once, serve_commands

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobile_sam.core.prompts import Prompt
    from mobile_sam.export.runner import Answer as Decoded
    from mobile_sam.export.runner import Runner

STABILITY_OFFSET = 1.0  # of SAM's export script, in logits
MIN_BOX_SHARE = 0.001  # of the picture's area, that a mask must have for its box to be a prompt
MULTI_TOKENS = (1, 2, 3)


class ParityWorker:
    """The variant and the requests that can be made of it; prompts are fields of `Prompt.of`."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._by_stability = False
        self._features: NDArray[np.float32]  # of the picture encoded last

    @property
    def runner(self) -> Runner:
        """The variant, which `load` made."""
        assert self._runner is not None
        return self._runner

    def load(
        self,
        variant: str,
        path: str | None,
        num_threads: int,
        part_hw: tuple[int, int] | None = None,
        by_stability: bool = False,
    ) -> Answer:
        """Make the runner, with all that has to be imported for it.

        Args:
            variant: "reference", "default" or "export".
            path: of the weights, the model folder or the exported folder; None for the bundled weights.
            num_threads: CPU threads; 0 for the variant's own choice.
            part_hw: the part of the model frame that the reference sees, (h, w); None for all of it.
            by_stability: judge masks by stability, not by predicted IoU; an export does so itself.
        """
        start = time.perf_counter()
        if variant == "reference":
            self._runner = open_reference(path, num_threads, part_hw)
        elif variant == "default":
            self._runner = open_default(path, num_threads)
        else:
            assert path is not None
            self._runner = open_export(path, num_threads)
        self._by_stability = by_stability and variant != "export"
        return {"seconds": time.perf_counter() - start, **peak()}

    def encode(self, picture: str) -> Answer:
        """Encode a picture file, whose reading is not timed."""
        image = read_once(picture)
        start = time.perf_counter()
        self._features = self.runner.encode(image)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, **peak()}

    def click(self, prompts: list[dict[str, Any]]) -> Answer:
        """Decode prompts one by one; masks are not drawn."""
        seconds = []
        for prompt in _prompts(prompts):
            start = time.perf_counter()
            self.runner.decode(prompt)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, **peak()}

    def refer(self, prompts: list[dict[str, Any]], out: str) -> Answer:
        """Answer prompts as the reference: write the four masks of each, and the features.

        Args:
            prompts: P of them.
            out: .npz file, with features (1, 256, s, s) and masks (P, 4, ...), packed bits of the picture's size.

        Returns:
            Of each prompt "scores", of the four masks; "chosen", the best of masks 1 to 3; "boxes", that of the mask
            chosen, or None where it is next to nothing.
        """
        import numpy as np

        masks, scores, chosen, boxes = [], [], [], []
        for prompt in _prompts(prompts):
            decoded = self.runner.decode(prompt)
            of_prompt = self._scores(decoded)
            best = _best_of_three(decoded.tokens, of_prompt)
            assert best is not None
            drawn = self.runner.draw(decoded)  # (4, H, W)
            masks.append(np.packbits(drawn.reshape(len(drawn), -1), axis=1))
            scores.append(of_prompt)
            chosen.append(best)
            boxes.append(_box_of(drawn[best]))
        np.savez(out, features=self._features, masks=np.stack(masks))
        return {"scores": scores, "chosen": chosen, "boxes": boxes}

    def answer(self, prompts: list[dict[str, Any]], candidates: list[list[int]], out: str) -> Answer:
        """Answer prompts, and write the mask of each that is to be compared, and the features.

        Args:
            prompts: P of them.
            candidates: mask tokens of each in the order of preference; what is compared is the first that there is.
            out: .npz file, with features (1, 256, s, s), or none where the variant says that they are not comparable,
                and masks (P, ...), packed bits of the picture's size.

        Returns:
            Of each prompt "tokens", the mask token; "scores", of that mask; "chosen", the best of masks 1 to 3, or None
            where the variant does not tell.
        """
        import numpy as np

        masks, scores, tokens, chosen = [], [], [], []
        for prompt, wanted in zip(_prompts(prompts), candidates, strict=True):
            decoded = self.runner.decode(prompt)
            of_prompt = self._scores(decoded)
            column, token = _column_of(decoded.tokens, wanted)
            masks.append(np.packbits(self.runner.draw(_only(decoded, column)).reshape(-1)))
            scores.append(of_prompt[column])
            tokens.append(token)
            chosen.append(_best_of_three(decoded.tokens, of_prompt))
        np.savez(out, features=self._features, masks=np.stack(masks))
        return {"scores": scores, "tokens": tokens, "chosen": chosen}

    def joint(self, picture: str, prompts: list[dict[str, Any]], candidates: list[list[int]], out: str) -> Answer:
        """Do as `answer` with the joint graph, for the picture encoded last; "seconds" are those of one prompt."""
        import numpy as np

        from mobile_sam.core.prompts import PromptBatch
        from mobile_sam.engines.exported import ExportedEngine
        from mobile_sam.export.runner import Answer as Decoded
        from mobile_sam.export.runner import EngineRunner

        runner = self.runner
        assert isinstance(runner, EngineRunner)
        assert isinstance(runner.engine, ExportedEngine)
        engine, resize = runner.engine, runner.embedding.resize
        image = engine.normalise_and_pad(resize.resize_image(read_once(picture)))
        batch = PromptBatch.from_prompts(_prompts(prompts), resize)
        masks, scores = [], []
        for start in range(0, len(batch), engine.prompts_at_once):
            logits, iou = engine.segment_jointly(image, batch[start : start + engine.prompts_at_once])
            for of_prompt, of_iou, (token, *_) in zip(logits, iou, candidates[start:], strict=False):
                drawn = runner.draw(Decoded(of_prompt[[token]], of_iou[[token]], (token,)))
                masks.append(np.packbits(drawn.reshape(-1)))
                scores.append(float(of_iou[token]))
        np.savez(out, masks=np.stack(masks))
        started = time.perf_counter()
        engine.segment_jointly(image, batch[:1])
        seconds = time.perf_counter() - started
        tokens = [token for token, *_ in candidates]
        return {"scores": scores, "tokens": tokens, "chosen": [None] * len(tokens), "seconds": seconds, **peak()}

    def _scores(self, decoded: Decoded) -> list[float]:
        from mobile_sam.core.masks import stability_score

        if self._by_stability:
            return [float(stability_score(logits, 0.0, STABILITY_OFFSET)) for logits in decoded.masks]
        return [float(score) for score in decoded.iou_predictions]


def open_reference(weights: str | None, num_threads: int, part_hw: tuple[int, int] | None) -> Runner:
    """PyTorch in fp32 on the CPU; with `part_hw`, on that part of the model frame."""
    import torch

    from mobile_sam.engines.pytorch import TorchEngine
    from mobile_sam.export.parity_reference import PartEngine
    from mobile_sam.export.runner import EngineRunner

    if num_threads:
        torch.set_num_threads(num_threads)
    if part_hw is None:
        return EngineRunner(TorchEngine(weights, device="cpu"))
    return EngineRunner(PartEngine(weights, (part_hw[0], part_hw[1])))


def open_default(model: str | None, num_threads: int) -> Runner:
    """The default engine."""
    from mobile_sam.engines.ort import OrtEngine
    from mobile_sam.export.runner import EngineRunner

    return EngineRunner(OrtEngine(model, num_threads=num_threads))


def open_export(folder: str, num_threads: int) -> Runner:
    """What was exported, on its own runtime; the target's module is imported only where it has a way of its own."""
    from importlib.util import find_spec
    from pathlib import Path

    from mobile_sam.core.manifest import ExportManifest
    from mobile_sam.export.runner import open_exported
    from mobile_sam.export.targets import get_target

    manifest = ExportManifest.read(Path(folder))
    if manifest.runtime is not None and find_spec(f"mobile_sam.engines.runtimes.{manifest.runtime}"):
        return open_exported(Path(folder), num_threads)
    runner = get_target(manifest.target).open_runner(Path(folder), num_threads)
    if runner is None:
        raise ValueError(f"{folder} was exported for {manifest.target}, which does not run here")
    return runner


def _prompts(prompts: list[dict[str, Any]]) -> list[Prompt]:
    from mobile_sam.core.prompts import Prompt

    return [Prompt.of(**fields) for fields in prompts]


def _only(decoded: Decoded, column: int) -> Decoded:
    from dataclasses import replace

    masks, scores = decoded.masks[[column]], decoded.iou_predictions[[column]]
    return replace(decoded, masks=masks, iou_predictions=scores, tokens=None)


def _best_of_three(tokens: Sequence[int] | None, scores: Sequence[float]) -> int | None:
    """Which of masks 1 to 3 has the highest score; None where none is told to be one."""
    known = {token: score for token, score in zip(tokens or (), scores, strict=False) if token in MULTI_TOKENS}
    return max(known, key=lambda token: known[token]) if known else None


def _column_of(tokens: Sequence[int] | None, wanted: Sequence[int]) -> tuple[int, int]:
    """Where the first mask wanted is, and its token; of a graph that chose one itself, that one."""
    if tokens is None:
        return 0, wanted[0]
    token = next(token for token in wanted if token in tokens)
    return tokens.index(token), token


def _box_of(mask: NDArray[np.bool_]) -> list[float] | None:
    """Outer edges of a mask, x1, y1, x2, y2 in pixels; None if it is next to nothing."""
    import numpy as np

    from mobile_sam.core.masks import masks_to_boxes

    if np.count_nonzero(mask) < max(1, MIN_BOX_SHARE * mask.size):
        return None
    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
    return [x1, y1, x2 + 1, y2 + 1]


def main() -> None:
    """Serve on stdin and stdout."""
    worker = ParityWorker()
    commands: dict[str, Command] = {
        "load": worker.load,
        "encode": worker.encode,
        "click": worker.click,
        "refer": worker.refer,
        "answer": worker.answer,
        "joint": worker.joint,
    }
    serve_commands(commands, sys.stdin, open_answers())


class ParityProcess(worker_process.WorkerProcess):
    """A process that runs a `ParityWorker`."""

    module = __name__
