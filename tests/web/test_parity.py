"""The page's masks are those of the Python predictor, for the same clicks and boxes."""

import numpy as np
import pytest

from mobile_sam.core.prompts import Prompt

LEAST_IOU = 0.99


def python_mask(predictor, prompt):
    """The mask of an object of the page's state, by the rule of `mobile-sam segment`."""
    points = [(click["x"], click["y"]) for click in prompt["clicks"]]
    labels = [int(click["isForeground"]) for click in prompt["clicks"]]
    box = prompt["box"] and [prompt["box"][side] for side in ("x1", "y1", "x2", "y2")]
    is_lone_click = len(points) == 1 and box is None
    asked = Prompt.of(points or None, labels or None, box)
    (prediction,) = predictor.predict_batch([asked], multimask_output=is_lone_click)
    return prediction.masks[prediction.best], float(prediction.iou_predictions[prediction.best])


def mark(visit, kind, size_wh):
    """Give prompts at places that are shares of the picture's sides."""
    width, height = size_wh
    if kind in ("box", "box and background"):
        visit.drag_box(0.15 * width, 0.1 * height, 0.85 * width, 0.9 * height)
    if kind in ("click", "clicks"):
        visit.click(0.48 * width, 0.45 * height)
    if kind == "clicks":
        visit.click(0.55 * width, 0.6 * height)
        visit.click(0.05 * width, 0.05 * height, button="right")
    if kind == "box and background":
        visit.click(0.2 * width, 0.15 * height, button="right")


@pytest.mark.parametrize("picture", ["cat", "portrait", "tiny"])
def test_masks_are_those_of_the_python_predictor(shared_visit, onnx_predictor, request, picture):
    path = request.getfixturevalue(picture)
    onnx_predictor.set_image(path)
    shared_visit.open(path)
    state = shared_visit.state()
    size_wh = (state["picture"]["width"], state["picture"]["height"])
    assert size_wh == onnx_predictor.original_size[::-1]
    ious = {}
    for kind in ("click", "clicks", "box", "box and background"):
        shared_visit.tab.press("#canvas", "n")
        mark(shared_visit, kind, size_wh)
        prompt = shared_visit.state()["objects"][-1]
        mask = shared_visit.mask()
        expected, score = python_mask(onnx_predictor, prompt)
        assert prompt["score"] == pytest.approx(score, abs=0.01)
        ious[kind] = np.count_nonzero(mask & expected) / np.count_nonzero(mask | expected)
    shared_visit.watch.check()
    assert {kind: value for kind, value in ious.items() if value < LEAST_IOU} == {}
