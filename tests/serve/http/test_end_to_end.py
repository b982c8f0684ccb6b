"""The bundled weights behind the app: what is sent is what `SamPredictor` says."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from mobile_sam.core.images import read_image
from mobile_sam.core.masks import decode_rle
from mobile_sam.core.prompts import Prompt
from mobile_sam.serve.app import create_app
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def served(onnx_predictor):
    service = SegmentService(onnx_predictor.engine, ServeSettings())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
        yield client
    service.close(10.0)


@pytest.fixture(scope="module")
def cat_id(served, examples) -> str:
    answer = served.post("/v1/embeddings", content=(examples / "chelsea.png").read_bytes())
    assert (answer.status_code, answer.json()["width"], answer.json()["height"]) == (201, 451, 300)
    return answer.json()["id"]


def test_masks_equal_the_predictors(served, cat_id, cat_predictor):
    prompts = [
        Prompt.of([[200, 150]]),
        Prompt.of([[200, 150], [20, 20]], [1, 0]),
        Prompt.of(box=[100, 50, 300, 250]),
        Prompt.of([[120, 200]], [0], [100, 50, 300, 250]),
    ]
    objects = [
        {"points": prompt.points_xy.tolist(), "labels": prompt.labels.tolist()} if len(prompt.labels) else {}
        for prompt in prompts
    ]
    for index in (2, 3):
        objects[index]["box"] = prompts[index].box_xyxy.tolist()
    answer = served.post("/v1/segment", json={"image": cat_id, "objects": objects}).json()
    (best,) = cat_predictor.predict_batch(prompts[:1], multimask_output=True)
    expected = [best.only(best.best), *cat_predictor.predict_batch(prompts[1:], multimask_output=False)]
    for found, prediction in zip(answer["objects"], expected, strict=True):
        (mask,) = found["masks"]
        pixels = decode_rle(mask["rle"])
        differing = np.count_nonzero(pixels != prediction.masks[0])
        assert differing <= 2  # pixels, where sums in another order end on the other side of the threshold
        assert mask["score"] == pytest.approx(float(prediction.iou_predictions[0]), abs=1e-4)


def test_a_photo_taken_sideways_is_upright(served, examples, tmp_path):
    from PIL import Image

    photo = Image.open(examples / "chelsea.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    photo.save(tmp_path / "sideways.jpg", exif=exif)
    answer = served.post("/v1/embeddings", content=(tmp_path / "sideways.jpg").read_bytes()).json()
    assert (answer["width"], answer["height"]) == (300, 451)
    assert read_image(tmp_path / "sideways.jpg").shape == (451, 300, 3)


def test_everything_finds_what_the_generator_finds(served, cat_id, cat_predictor, cat_embedding):
    from mobile_sam import SamAutomaticMaskGenerator

    settings = {"points_per_side": 4}
    answer = served.post("/v1/everything", json={"image": cat_id, "settings": settings})
    masks = json.loads(answer.text.splitlines()[-1])["masks"]
    generator = SamAutomaticMaskGenerator(engine=cat_predictor.engine, **settings)
    records = generator.generate_from_embedding(cat_embedding)
    assert [mask["area"] for mask in masks] == [record["area"] for record in records]
