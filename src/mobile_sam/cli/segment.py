"""`mobile-sam segment`: prompts in, masks out, on one photograph."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam.cli.model_option import EngineName, ModelName, PrecisionName
from mobile_sam.cli.outputs import check_outputs, picture_paths
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
    engine: EngineName = "auto",
    precision: PrecisionName = None,
    model: ModelName = None,
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
    from concurrent.futures import ThreadPoolExecutor

    from mobile_sam.core.weights import find_checkpoint, weights_file

    checkpoint = find_checkpoint(model)
    weights = weights_file(checkpoint) if checkpoint else None
    spent_ms: dict[str, float] = {}
    with ThreadPoolExecutor(1) as background:
        # which takes longer than all that this thread does meanwhile
        loading = background.submit(_load, engine, checkpoint, precision, spent_ms)
        asked = parse_prompts(point or [], box or [], prompts)
        num_pictures = (3 if multimask else 1) * (1 if style is Style.overlay else len(asked))
        pictures = picture_paths(output or Path(f"{photo.stem}_{style.value}.png"), num_pictures)
        inputs = {"the photo": photo, "the prompt file": prompts, "the checkpoint": weights}
        check_outputs(pictures, json_path, inputs, has_opacity=style is Style.cutout)
        image = _read(photo, asked, pictures[0], spent_ms)
        loaded = loading.result()
    predictions = _predict(image, loaded, asked, multimask, spent_ms)
    answer = _Answer(photo, image, loaded, asked, predictions, spent_ms)
    _print_report(_write(answer, style, pictures, json_path), [*pictures, *([json_path] if json_path else [])])


@dataclass(frozen=True, eq=False)
class _Answer:
    """All there is to report of one picture."""

    photo: Path
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    engine: Engine
    prompts: list[Prompt]
    predictions: list[Prediction]  # one for each prompt
    spent_ms: dict[str, float]  # by stage


@contextmanager
def _timed(stage: str, spent_ms: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent_ms[stage] = round(1e3 * (time.perf_counter() - started), 1)


def _load(engine_name: str, checkpoint: Path | None, precision: str | None, spent_ms: dict[str, float]) -> Engine:
    with _timed("load", spent_ms):
        from mobile_sam.engines import make_engine

        return make_engine(engine_name, checkpoint, precision=precision)


def _read(photo: Path, prompts: list[Prompt], target: Path, spent_ms: dict[str, float]) -> NDArray[np.uint8]:
    """Read the picture, and see that the prompts lie in it and that the target can hold one of its size."""
    with _timed("read", spent_ms):
        from mobile_sam.core.images import check_image_path, read_image

        image = read_image(photo)
    size_hw = (image.shape[0], image.shape[1])
    for prompt in prompts:
        prompt.check_inside(size_hw)
    check_image_path(target, size_hw=size_hw)
    return image


def _predict(
    image: NDArray[np.uint8], engine: Engine, prompts: list[Prompt], multimask: bool, spent_ms: dict[str, float]
) -> list[Prediction]:
    from mobile_sam.predictor import SamPredictor

    predictor = SamPredictor(engine=engine)
    with _timed("encode", spent_ms):
        predictor.set_image(image)
    predictions: dict[int, Prediction] = {}
    with _timed("decode", spent_ms):
        for wants_three in (True, False):
            rows = [row for row, prompt in enumerate(prompts) if wants_three == (multimask or prompt.is_lone_click)]
            answers = predictor.predict_batch([prompts[row] for row in rows], multimask_output=wants_three)
            if wants_three and not multimask:
                answers = [answer.only(answer.best) for answer in answers]
            predictions.update(zip(rows, answers, strict=True))
    return [predictions[row] for row in range(len(prompts))]


def _write(answer: _Answer, style: Style, pictures: list[Path], json_path: Path | None) -> dict[str, Any]:
    """Write the pictures and the JSON, none before all could be made, and return what the JSON holds."""
    from mobile_sam.core.files import atomic_path
    from mobile_sam.core.images import write_image

    with ExitStack() as files:
        temporaries = [files.enter_context(atomic_path(path)) for path in pictures]
        json_file = files.enter_context(atomic_path(json_path)) if json_path else None
        with _timed("write", answer.spent_ms):
            for temporary, picture in zip(temporaries, _draw(answer, style), strict=True):
                write_image(temporary, picture)
        report = _report(answer)
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _draw(answer: _Answer, style: Style) -> Iterator[NDArray[Any]]:
    """Draw one overlay of all objects (one for each of three masks with --multimask), or a picture for each mask."""
    import numpy as np

    from mobile_sam.core.draw import cutout
    from mobile_sam.results import draw_result

    by_object = [prediction.masks for prediction in answer.predictions]  # each (M, H, W)
    if style is Style.overlay:
        for level in zip(*by_object, strict=True):
            yield draw_result(answer.image, np.stack(level), answer.prompts)
        return
    for mask in (mask for masks in by_object for mask in masks):
        yield mask if style is Style.mask else cutout(answer.image, mask)


def _report(answer: _Answer) -> dict[str, Any]:
    """Collect what is printed and written as JSON."""
    from mobile_sam.results import mask_record

    masks = [
        mask_record(mask, score, index, prompt)
        for index, (prompt, prediction) in enumerate(zip(answer.prompts, answer.predictions, strict=True))
        for mask, score in zip(prediction.masks, prediction.iou_predictions.tolist(), strict=True)
    ]
    return {
        "image": str(answer.photo),
        "size": [answer.image.shape[0], answer.image.shape[1]],
        "engine": answer.engine.name,
        "model": answer.engine.model_id,
        "milliseconds": {stage: answer.spent_ms[stage] for stage in ("read", "load", "encode", "decode", "write")},
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
