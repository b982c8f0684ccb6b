"""The folder for CVAT, run as nuclio and as cvat-sdk run it; neither CVAT nor nuclio is here."""

import base64
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mobile_sam import SamPredictor
from mobile_sam.core.masks import mask_iou, mask_to_polygons

FOLDER = Path(__file__).parents[2] / "integrations" / "cvat"


@dataclass
class Response:
    """As nuclio_sdk.Response."""

    body: str
    headers: dict
    content_type: str
    status_code: int


class Context:
    """As much of nuclio_sdk.Context as functions see."""

    Response = Response

    def __init__(self):
        self.user_data = SimpleNamespace()
        self.logged = []
        self.logger = SimpleNamespace(info=self.logged.append, warn=self.logged.append)


@pytest.fixture(scope="module")
def load():
    """Import a file of the folder as nuclio does: by its name, with the folder on the path."""
    names = ("main", "model_handler", "auto_annotation", "interaction")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def main(load):
    return load("main")


@pytest.fixture(scope="module")
def context(main):
    made = Context()
    with pytest.MonkeyPatch.context() as patch:  # so that the embedding can be compared with one of the same engine
        engine = SamPredictor(engine="onnxruntime").engine
        patch.setattr(sys.modules["model_handler"], "make_engine", lambda name: engine)
        main.init_context(made)
    return made


def ask(main, context, body):
    response = main.handler(context, SimpleNamespace(body=body))
    assert response.content_type == "application/json"
    return response.status_code, json.loads(response.body)


def test_the_blob_is_the_embedding_that_cvats_page_decodes(main, context, examples, cat_embedding):
    picture = (examples / "chelsea.png").read_bytes()
    # As CVAT's server asks (cvat/apps/lambda_manager/views.py); nuclio has read the JSON.
    body = {"image": base64.b64encode(picture).decode(), "pos_points": [[10, 20]], "neg_points": [], "obj_bbox": None}
    status, answer = ask(main, context, body)
    assert (status, list(answer)) == (200, ["blob"])
    # As its page reads it: Float32Array of atob(blob), shape [1, 256, 64, 64].
    features = np.frombuffer(base64.b64decode(answer["blob"]), "<f4").reshape(1, 256, 64, 64)
    np.testing.assert_array_equal(features, cat_embedding.features)
    assert ask(main, context, json.dumps(body).encode()) == (status, answer)  # where nuclio has not read it


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image": None},
        {"image": "!!!"},
        {"image": "AAAA"},
        {"image": ""},
        b"{",
        b"[]",
        None,
        7,
    ],
)
def test_broken_requests_and_pictures_are_answered_with_400(main, context, body):
    status, answer = ask(main, context, body)
    assert status == 400
    assert answer["error"]
    assert "refused" in context.logged[-1]


def test_the_description_has_what_nuclio_and_cvat_read():
    described = yaml.safe_load((FOLDER / "function.yaml").read_text(encoding="utf-8"))
    metadata, spec = described["metadata"], described["spec"]
    assert (metadata["name"], metadata["namespace"]) == ("pth-facebookresearch-sam-vit-h", "cvat")
    annotations = metadata["annotations"]
    assert (annotations["type"], int(annotations["version"])) == ("interactor", 2)
    assert (int(annotations["min_pos_points"]), int(annotations["min_neg_points"])) == (0, 0)
    assert annotations["startswith_box_optional"] is True
    module, function = spec["handler"].split(":")
    assert f"def {function}(" in (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    assert (spec["runtime"], spec["build"]["baseImage"]) == ("python:3.11", "python:3.11-slim")
    (trigger,) = spec["triggers"].values()
    assert trigger["kind"] == "http"
    assert trigger["attributes"]["maxRequestBodySize"] == 32 * 1024**2
    assert all(step["kind"] in ("RUN", "ENV", "WORKDIR") for step in spec["build"]["directives"]["postCopy"])


@pytest.fixture(scope="module")
def cvat_sdk():
    return pytest.importorskip("cvat_sdk", reason="pip install cvat-sdk, of which 2.80.0 was tried")


@pytest.fixture
def frame(examples):
    from PIL import Image

    return Image.open(examples / "chelsea.png")


def test_everything_comes_as_masks_or_polygons_of_the_one_label(cvat_sdk, load, frame):
    from cvat_sdk.masks import decode_mask

    function = load("auto_annotation").create(label="thing", engine="onnxruntime", points_per_side=3)
    assert [(label.name, label.id) for label in function.spec.labels] == [("thing", 0)]
    expected = function._generator.generate(frame)
    asked = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False, frame_name="chelsea.png")
    masks = function.detect(asked, frame)
    assert [int(decode_mask(m.points, image_width=451, image_height=300).sum()) for m in masks] == [
        record["area"] for record in expected
    ]
    assert len(masks) > 1
    assert {(str(shape.type), shape.label_id, shape.frame) for shape in masks} == {("mask", 0, 0)}
    asked.conv_mask_to_poly = True
    polygons = function.detect(asked, frame)
    assert {str(shape.type) for shape in polygons} == {"polygon"}
    first = decode_mask(masks[0].points, image_width=451, image_height=300)
    assert polygons[0].points == mask_to_polygons(first, tolerance_px=1.0)[0].ravel().tolist()
    asked.conf_threshold = expected[0]["predicted_iou"]
    assert len(function.detect(asked, frame)) == 1  # records come best first


def test_marks_in_cvats_page_are_answered_as_by_the_predictor(cvat_sdk, load, frame, cat_predictor):
    from cvat_sdk.masks import decode_mask

    function = load("interaction").create(engine="onnxruntime")
    embedding = function.preprocess_image(None, frame)

    def answer(pos_points=(), neg_points=(), bounding_box=None):
        marks = SimpleNamespace(pos_points=pos_points, neg_points=neg_points, bounding_box=bounding_box)
        return function.detect(None, embedding, marks)

    masks, scores, _ = cat_predictor.predict([[200, 150]], [1])
    (shape,) = answer([(200, 150)])
    assert shape.type == "mask"
    mask = decode_mask(shape.points, image_width=451, image_height=300)
    assert mask_iou(mask[None], masks[[np.argmax(scores)]]) == 1
    assert float(shape.attributes[0].value) == pytest.approx(scores.max(), abs=1e-4)
    masks, _, _ = cat_predictor.predict([[200, 150], [10, 10]], [1, 0], [50, 20, 400, 299], multimask_output=False)
    (shape,) = answer([(200, 150)], [(10, 10)], ((50, 20), (400, 299)))
    assert mask_iou(decode_mask(shape.points, image_width=451, image_height=300)[None], masks) == 1
    assert answer() == answer(neg_points=[(5, 5)]) == []
