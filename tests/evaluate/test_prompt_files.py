"""Prompts for other tools: the very same that our own models are asked."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.masks import encode_rle
from mobile_sam.data.mask_files import read_mask_file
from mobile_sam.data.records import Dataset, Instance, Picture
from mobile_sam.evaluate.agreement import AgreementTask
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.prompt_files import write_prompt_file
from mobile_sam.evaluate.protocols import AgreementProtocol
from mobile_sam.evaluate.run import embed, open_picture
from mobile_sam.evaluate.stopwatch import Stopwatch

HEIGHT, WIDTH = 48, 64
PROTOCOLS = (
    AgreementProtocol("grid", num_prompts=2),
    AgreementProtocol("random", prompts="random", num_prompts=3),
    AgreementProtocol("pair", prompts="pair", num_prompts=2, distance_px=20),
    AgreementProtocol("box", prompts="box"),
    AgreementProtocol("centre", prompts="centre"),
    AgreementProtocol("given", prompts="given"),
)


@pytest.fixture
def dataset(tmp_path):
    """Two pictures with one and two objects; only the last object has an annotated click."""
    pictures = []
    for name, places in (("1", [(10, 10)]), ("2", [(5, 5), (30, 20)])):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / f"{name}.png")
        instances = []
        for x, y in places:
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[y : y + 9, x : x + 5] = True
            click_xy = (31.25, 21.5) if x == 30 else None
            box_xyxy = (float(x), float(y), x + 5.0, y + 9.0)
            instances.append(Instance(f"{name}{x}", encode_rle(mask), box_xyxy, 45.0, point_xy=click_xy))
        pictures.append(Picture(name, tmp_path / f"{name}.png", tuple(instances), (HEIGHT, WIDTH)))
    return Dataset("clicks", "coco", "", tuple(pictures))


@pytest.fixture
def model(disc_engine):
    return Model(ModelSpec("disc"), disc_engine)


def written(tmp_path, dataset, protocols=PROTOCOLS):
    path = tmp_path / "prompts.json"
    number = write_prompt_file(path, dataset, protocols)
    records = json.loads(path.read_text())
    assert len(records) == number
    return records


def asked(dataset, model, reference=None, protocols=PROTOCOLS):
    """What AgreementTask asks its models, in order: what it measured and the prompt."""
    task = AgreementTask(protocols, reference or model, [model])
    for picture in dataset.pictures:
        embeddings = embed(open_picture(picture), [model], None, Stopwatch())
        for attempt in task.attempts(picture, embeddings, Stopwatch(), Counter()):
            yield attempt.measurement, attempt.prompt


def test_the_file_holds_the_prompts_that_models_are_asked(tmp_path, dataset, model):
    records = written(tmp_path, dataset)
    questions = list(asked(dataset, model))
    assert len(records) == len(questions) == 2 * (4 + 3 + 2) + 3 + 3 + 1
    for record, (measurement, prompt) in zip(records, questions, strict=True):
        assert (record["image_id"], record["prompt_id"]) == (measurement.picture, measurement.object)
        assert np.array_equal(np.array(record["point_coords"]).reshape(-1, 2), prompt.points_xy)
        assert record["point_labels"] == prompt.labels.tolist()
        assert (record["box"] is None) == (prompt.box_xyxy is None)
        assert record["box"] is None or record["box"] == prompt.box_xyxy.tolist()


def test_records_say_in_pixels_of_which_picture(tmp_path, dataset):
    by_id = {(record["image_id"], record["prompt_id"]): record for record in written(tmp_path, dataset)}
    assert by_id["1", "grid-2/0"] == {
        "image_id": "1",
        "file_name": "1.png",
        "prompt_id": "grid-2/0",
        "point_coords": [[16.0, 12.0]],  # the middle of a quarter of 64 x 48
        "point_labels": [1],
        "box": None,
    }
    assert by_id["1", "box/110"]["box"] == [10.0, 10.0, 15.0, 19.0]
    assert (by_id["1", "box/110"]["point_coords"], by_id["1", "box/110"]["point_labels"]) == ([], [])
    assert by_id["1", "centre/110"]["point_coords"] == [[12.0, 12.0]]  # of 5 x 9 pixels, the first of the deepest
    assert by_id["2", "given/230"]["point_coords"] == [[31.25, 21.5]]
    pair = by_id["2", "pair-2-20px-seed0/1"]
    assert pair["point_labels"] == [1, 0]
    assert np.hypot(*np.subtract(*pair["point_coords"])) == pytest.approx(20, abs=1e-4)


def test_the_file_is_the_same_each_time_and_whatever_else_is_in_it(tmp_path, dataset):
    records = written(tmp_path, dataset)
    assert written(tmp_path, dataset) == records
    alone = written(tmp_path, Dataset("", "", "", dataset.pictures[1:]), PROTOCOLS[1:2])
    assert alone == [r for r in records if r["image_id"] == "2" and r["prompt_id"].startswith("random-")]


def test_another_seed_gives_other_points(tmp_path, dataset):
    one, other = (
        written(tmp_path, dataset, [AgreementProtocol("random", prompts="random", seed=seed)]) for seed in (0, 1)
    )
    assert len(one) == len(other)
    assert not {r["prompt_id"] for r in one} & {r["prompt_id"] for r in other}  # answers to one fit not the other
    assert all(a["point_coords"] != b["point_coords"] for a, b in zip(one, other, strict=True))


def test_answers_to_the_file_find_their_prompts(tmp_path, dataset, model):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:10] = True
    protocols = PROTOCOLS[:5]  # clicks that are "given" would be the file's own
    answers = [
        {"image_id": r["image_id"], "prompt_id": r["prompt_id"], "segmentation": encode_rle(mask)}
        for r in written(tmp_path, dataset, protocols)
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    reference = read_mask_file(tmp_path / "answers.json")
    measured = [measurement for measurement, _ in asked(dataset, model, reference, protocols)]
    assert len(measured) == len(answers)
    assert {measurement.area_px for measurement in measured} == {10.0 * WIDTH}


@pytest.mark.parametrize("how", ["damaged", "missing", "of another size"])
@pytest.mark.parametrize("is_size_annotated", [True, False])
def test_a_picture_that_cannot_be_measured_has_no_prompts(tmp_path, dataset, caplog, how, is_size_annotated):
    size_hw = (HEIGHT, WIDTH) if is_size_annotated else None
    broken = Picture("0", tmp_path / "0.png", dataset.pictures[0].instances, size_hw)
    if how == "damaged":
        broken.path.write_bytes(b"damaged")
    elif how == "of another size":
        Image.new("RGB", (WIDTH + 1, HEIGHT)).save(broken.path)
    records = written(tmp_path, Dataset("", "", "", (broken, *dataset.pictures)), PROTOCOLS[:1])
    is_refused = how != "of another size" or is_size_annotated
    assert {record["image_id"] for record in records} == ({"1", "2"} if is_refused else {"0", "1", "2"})
    assert ("no prompts for picture 0: " in caplog.text) == is_refused


def test_a_picture_of_unknown_size_is_asked_in_its_own_pixels(tmp_path, dataset):
    bare = Dataset("", "pictures", "", (Picture("1", dataset.pictures[0].path),))
    assert written(tmp_path, bare, PROTOCOLS[:1])[3]["point_coords"] == [[48.0, 36.0]]


def test_where_no_prompt_can_be_made_no_file_is_written(tmp_path, dataset):
    far = AgreementProtocol("far", prompts="pair", distance_px=1000)
    with pytest.raises(ValueError, match="clicks gives no prompt for far"):
        write_prompt_file(tmp_path / "prompts.json", dataset, [far])
    assert not (tmp_path / "prompts.json").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_prompt_file(tmp_path / "gone" / "prompts.json", dataset, PROTOCOLS)
