"""One engine in one process, driven by JSON lines: a request per line on stdin, an answer per line on stdout.

    {"command": "load"}                                  imports the package and builds the predictor
    {"command": "encode", "picture": "cat.png"}          set_image; "save": "x.npz" keeps the embedding
    {"command": "click", "x": 10, "y": 20}               predict of one foreground point; "save" keeps the masks
    {"command": "everything", "picture": "cat.png"}      SamAutomaticMaskGenerator.generate; "settings": {...} of its
                                                         constructor; "save" keeps the masks
    {"command": "exit"}

Every answer has `seconds` (measured here, without reading the picture or saving) and `peak_rss_mb` (as it stood before
saving). `--variant original` runs the original code, any other variant ours: ENGINE, ENGINE:PRECISION, or
ENGINE@FOLDER with an exported folder; both by SAM's own words.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

Answer = dict[str, Any]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes).

    Linux's ru_maxrss survives exec and so starts at the parent's peak; VmHWM belongs to this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def use_threads(threads: int) -> None:
    """Hold every library to this many threads; call before torch or onnxruntime is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


class Worker:
    """The predictor under test and the commands that can be asked of it."""

    def __init__(self, variant: str, checkpoint: str | None, threads: int | None) -> None:
        if variant == "original" and checkpoint is None:
            raise ValueError("--variant original needs --checkpoint mobile_sam.pt")
        self.variant, self.checkpoint, self.threads = variant, checkpoint, threads
        self.predictor: Any = None

    def load(self) -> Answer:
        """Import the package, then build the predictor: `seconds` is both."""
        if self.threads is not None:
            use_threads(self.threads)
        start = time.perf_counter()
        if self.variant == "original":
            import original_shim  # noqa: F401
        from mobile_sam import SamPredictor

        imported = time.perf_counter()
        self.predictor = self.build(SamPredictor)
        built = time.perf_counter()
        torch_is_imported = "torch" in sys.modules
        if self.threads is not None and torch_is_imported:
            sys.modules["torch"].set_num_threads(self.threads)
        seconds = {"seconds": built - start, "import_seconds": imported - start, "build_seconds": built - imported}
        return seconds | {"peak_rss_mb": peak_rss_mb(), "torch_is_imported": torch_is_imported}

    def build(self, predictor_class: Any) -> Any:
        """The predictor of this variant, ready to compute."""
        if self.variant == "original":
            from mobile_sam import sam_model_registry  # in ours this name would import torch

            if (
                predictor_class.__init__.__kwdefaults__
            ):  # ours takes engine=...; the original has no keyword-only arguments
                raise ValueError("this interpreter imports our package, not the original; see make_original_env.py")
            return predictor_class(sam_model_registry["vit_t"](checkpoint=self.checkpoint).eval())
        engine_and_precision, _, folder = self.variant.partition("@")
        engine, _, precision = engine_and_precision.partition(":")
        options = {"engine": engine, "precision": precision or None, "num_threads": self.threads or 0}
        return predictor_class(folder or None, **options)

    def encode(self, picture: str, save: str | None = None) -> Answer:
        """set_image of a picture file; saved under `embedding`: (1, 256, 64, 64) float32."""
        import numpy as np

        image = read_rgb(picture)
        start = time.perf_counter()
        with self.timed_network() as network:
            self.predictor.set_image(image)
        answer = {
            "seconds": time.perf_counter() - start,
            "network_seconds": network[0],
            "peak_rss_mb": peak_rss_mb(),
            "size_hw": image.shape[:2],
        }
        if save:
            embedding = self.predictor.get_image_embedding()
            embedding = embedding.detach().cpu().numpy() if hasattr(embedding, "detach") else np.asarray(embedding)
            np.savez(save, embedding=embedding)
        return answer

    @contextlib.contextmanager
    def timed_network(self) -> Iterator[list[float]]:
        """Also time the encoder's network alone, without resizing and normalising, which happens inside set_image."""
        seconds: list[float] = []
        model = getattr(self.predictor, "model", None)
        owner, name = (model.image_encoder, "forward") if model is not None else (self.predictor.engine, "encode_input")
        run = getattr(owner, name)

        def timed(*inputs: Any) -> Any:
            start = time.perf_counter()
            features = run(*inputs)
            seconds.append(time.perf_counter() - start)
            return features

        setattr(owner, name, timed)
        try:
            yield seconds
        finally:
            delattr(owner, name)

    def click(self, x: float, y: float, save: str | None = None) -> Answer:
        """Predict the masks of one foreground point.

        Saved: `masks` (3, ceil(H * W / 8)) packed bits, `predicted_iou` (3,), `low_res_logits` (3, 256, 256) float32.
        """
        import numpy as np

        points_xy, labels = np.array([[x, y]]), np.array([1])
        start = time.perf_counter()
        masks, predicted_iou, low_res_logits = self.predictor.predict(
            point_coords=points_xy, point_labels=labels, multimask_output=True
        )
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "peak_rss_mb": peak_rss_mb(), "predicted_iou": np.asarray(predicted_iou).tolist()}
        answer["area_px"] = np.asarray(masks).sum(axis=(1, 2)).tolist()
        if save:
            bits = np.packbits(np.asarray(masks, bool).reshape(len(masks), -1), axis=1)  # (3, ceil(H * W / 8))
            np.savez(save, masks=bits, predicted_iou=predicted_iou, low_res_logits=low_res_logits)
        return answer

    def everything(self, picture: str, settings: dict[str, Any] | None = None, save: str | None = None) -> Answer:
        """Generate the masks of everything in a picture file, with the model that is loaded.

        Saved, for `output_mode="binary_mask"`: `masks` (N, ceil(H * W / 8)) packed bits, `predicted_iou` (N,),
        `size_hw` (2,). `num_points`, how many points were decoded, is None for the original, which decodes them all.
        """
        import numpy as np

        from mobile_sam import SamAutomaticMaskGenerator

        is_original = self.variant == "original"
        model = {"model": self.predictor.model} if is_original else {"engine": self.predictor.engine}
        generator = SamAutomaticMaskGenerator(**model, **(settings or {}))
        image = read_rgb(picture)
        start = time.perf_counter()
        records = generator.generate(image)
        answer = {
            "seconds": time.perf_counter() - start,
            "peak_rss_mb": peak_rss_mb(),
            "size_hw": image.shape[:2],
            "num_masks": len(records),
            "num_points": None if is_original else generator.num_points,
        }
        if save:
            bits = [np.packbits(record["segmentation"].ravel()) for record in records]  # N of (ceil(H * W / 8),)
            predicted_iou = [record["predicted_iou"] for record in records]
            np.savez(
                save, masks=np.array(bits, np.uint8), predicted_iou=np.array(predicted_iou), size_hw=image.shape[:2]
            )
        return answer


@functools.lru_cache(maxsize=1)
def read_rgb(picture: str) -> Any:
    """A picture file as (H, W, 3) uint8 RGB."""
    import numpy as np
    from PIL import Image

    return np.array(Image.open(picture).convert("RGB"))


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until `exit` or the end of the input; an error ends the process with its traceback."""
    commands: dict[str, Callable[..., Answer]] = {
        "load": worker.load,
        "encode": worker.encode,
        "click": worker.click,
        "everything": worker.everything,
    }
    for line in requests:
        request = json.loads(line)
        command = request.pop("command")
        if command == "exit":
            return
        answer = commands[command](**request)
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Serve on stdin and stdout; whatever a library prints goes to stderr instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", required=True, help="original, or ENGINE[:PRECISION][@FOLDER], as openvino:bf16")
    parser.add_argument("--checkpoint", help="the official mobile_sam.pt, for --variant original")
    parser.add_argument("--threads", type=int, help="threads to compute with; default: what the package picks")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Worker(arguments.variant, arguments.checkpoint, arguments.threads), sys.stdin, answers)


if __name__ == "__main__":
    main()
