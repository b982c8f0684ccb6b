"""`mobile-sam segment`: prompts in, masks out, on one photograph."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam.cli.prompts import FILE_HELP, parse_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobile_sam.core.predictions import Prediction
    from mobile_sam.core.prompts import Prompt
    from mobile_sam.engines import Engine


class Style(str, Enum):
    """What the written picture shows."""

    overlay = "overlay"
    mask = "mask"
    cutout = "cutout"


def segment(
    photo: Annotated[Path, typer.Argument(help="The picture: JPEG, PNG, WebP, TIFF or BMP.", show_default=False)],
    point: Annotated[
        list[str] | None,
        typer.Option(help="X,Y or X,Y,LABEL in pixels; label 1 the object (default), 0 not the object. Repeatable."),
    ] = None,
    box: Annotated[list[str] | None, typer.Option(help="X1,Y1,X2,Y2 in pixels, an object each. Repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help=f"A JSON file: {FILE_HELP}.")] = None,
    multimask: Annotated[bool, typer.Option("--multimask", help="Three masks for each object.")] = False,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or torch.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture to write. [default: PHOTO_STYLE.png here]")
    ] = None,
    style: Annotated[
        Style, typer.Option(help="Draw over the photo, a black and white mask, or a cut-out.")
    ] = Style.overlay,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write masks (COCO RLE), boxes and scores here.")
    ] = None,
) -> None:
    """Cut objects out of a photo.

    Without --multimask each object gets one mask; for a single click, which is ambiguous, it is the best of three.
    """
    asked = parse_prompts(point or [], box or [], prompts)
    target = output or Path(f"{photo.stem}_{style.value}.png")
    _check_writable(target, json_path)
    spent_ms: dict[str, float] = {}
    image, made = _read_and_load(photo, engine, spent_ms)
    predictions = _predict(image, made, asked, multimask, spent_ms)
    with _timed("write", spent_ms):
        written = _write_pictures(target, style, image, asked, predictions)
    report = _report(photo, image, made, asked, predictions, spent_ms)
    if json_path is not None:
        from mobile_sam.core.files import write_text_atomic

        write_text_atomic(json_path, json.dumps(report, indent=1) + "\n")
        written.append(json_path)
    _print_report(report, written)


@contextmanager
def _timed(stage: str, spent_ms: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent_ms[stage] = round(1e3 * (time.perf_counter() - started), 1)


def _read_and_load(photo: Path, engine_name: str, spent_ms: dict[str, float]) -> tuple[NDArray[np.uint8], Engine]:
    """Read the picture while another thread loads the networks: each takes about as long as the other."""
    from concurrent.futures import ThreadPoolExecutor

    from mobile_sam.engines import make_engine

    def load() -> Engine:
        with _timed("load", spent_ms):
            engine = make_engine(engine_name)
            engine.load()
        return engine

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        with _timed("read", spent_ms):
            from mobile_sam.core.images import read_image

            image = read_image(photo)
        return image, loading.result()


def _predict(
    image: NDArray[np.uint8], engine: Engine, prompts: list[Prompt], multimask: bool, spent_ms: dict[str, float]
) -> list[Prediction]:
    from mobile_sam.predictor import SamPredictor

    for prompt in prompts:
        prompt.check_inside((image.shape[0], image.shape[1]))
    predictor = SamPredictor(engine=engine)
    with _timed("encode", spent_ms):
        predictor.set_image(image)
    predictions: dict[int, Prediction] = {}
    with _timed("decode", spent_ms):
        for wants_three in (True, False):
            rows = [row for row, prompt in enumerate(prompts) if wants_three == (multimask or _is_lone_click(prompt))]
            answers = predictor.predict_batch([prompts[row] for row in rows], multimask_output=wants_three)
            if wants_three and not multimask:
                answers = [answer.only(answer.best) for answer in answers]
            predictions.update(zip(rows, answers, strict=True))
    return [predictions[row] for row in range(len(prompts))]


def _is_lone_click(prompt: Prompt) -> bool:
    return len(prompt.labels) == 1 and prompt.box_xyxy is None


def _write_pictures(
    target: Path, style: Style, image: NDArray[np.uint8], prompts: list[Prompt], predictions: list[Prediction]
) -> list[Path]:
    """Write one overlay of all masks (one for each of three with --multimask), or one file for each mask."""
    import numpy as np

    from mobile_sam.core.draw import cutout
    from mobile_sam.core.images import write_image
    from mobile_sam.results import draw_result

    if style is Style.overlay:
        levels = [np.stack(masks) for masks in zip(*(prediction.masks for prediction in predictions), strict=True)]
        pictures = (draw_result(image, masks, prompts) for masks in levels)
        num_pictures = len(levels)
    else:
        flat = [mask for prediction in predictions for mask in prediction.masks]
        pictures = (mask if style is Style.mask else cutout(image, mask) for mask in flat)
        num_pictures = len(flat)
    paths = [target] if num_pictures == 1 else [
        target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, num_pictures + 1)
    ]  # fmt: skip
    for path, picture in zip(paths, pictures, strict=True):
        write_image(path, picture)
    return paths


def _check_writable(target: Path, json_path: Path | None) -> None:
    """Find out before the work, not after it, that a result could not be written."""
    from mobile_sam.core.images import check_image_path

    check_image_path(target)
    if json_path is not None and not json_path.resolve().parent.is_dir():
        raise FileNotFoundError(f"cannot write {json_path}: the folder {json_path.parent} does not exist")


def _report(
    photo: Path,
    image: NDArray[np.uint8],
    engine: Engine,
    prompts: list[Prompt],
    predictions: list[Prediction],
    spent_ms: dict[str, float],
) -> dict[str, Any]:
    """Collect what is printed and written as JSON."""
    import numpy as np

    from mobile_sam.core.masks import encode_rle, masks_to_boxes

    masks = []
    for index, (prompt, prediction) in enumerate(zip(prompts, predictions, strict=True)):
        for mask, score, (x1, y1, x2, y2) in zip(
            prediction.masks, prediction.iou_predictions, masks_to_boxes(prediction.masks).tolist(), strict=True
        ):
            area_px = int(np.count_nonzero(mask))
            box_xywh = [x1, y1, x2 - x1 + 1, y2 - y1 + 1] if area_px else [0, 0, 0, 0]
            masks.append({
                "object": index,
                "predicted_iou": round(float(score), 6),
                "area": area_px,
                "bbox": box_xywh,
                "segmentation": encode_rle(mask),
                "prompt": prompt.to_json(),
            })  # fmt: skip
    return {
        "image": str(photo),
        "size": [image.shape[0], image.shape[1]],
        "engine": engine.name,
        "model": engine.model_id,
        "milliseconds": {stage: spent_ms[stage] for stage in ("read", "load", "encode", "decode", "write")},
        "masks": masks,
    }


def _print_report(report: dict[str, Any], written: list[Path]) -> None:
    print("object  score   area px  box x, y, width, height")
    for mask in report["masks"]:
        x, y, width, height = mask["bbox"]
        print(f"{mask['object']:6d}  {mask['predicted_iou']:5.3f}  {mask['area']:8d}  {x}, {y}, {width}, {height}")
    stages = "  ".join(f"{stage} {milliseconds:.0f}" for stage, milliseconds in report["milliseconds"].items())
    print(f"ms: {stages}  ({report['engine']})")
    for path in written:
        print(f"wrote {path}")
