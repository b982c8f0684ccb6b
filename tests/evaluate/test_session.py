"""A run from its pictures to its report: what is counted, what is written, what is refused."""

import csv
import dataclasses
import hashlib
import json
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mobile_sam import __version__
from mobile_sam.core.masks import encode_rle
from mobile_sam.data.records import Dataset, Instance, Picture, Problem
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.prompts import PromptsTask
from mobile_sam.evaluate.protocols import PromptsProtocol, with_settings
from mobile_sam.evaluate.report.files import read_json
from mobile_sam.evaluate.run_folder import check_run_folder, write_report, written_files
from mobile_sam.evaluate.session import RunOptions, Session, dataset_facts
from mobile_sam.evaluate.validate import evaluate_prompts

HEIGHT, WIDTH = 48, 64  # 16 model pixels to one of the picture
FILES = ["report.json", "measurements.csv", "report.html"]


def picture(folder, name, boxes, crowds=()):
    """A grey picture whose objects are the boxes x1, y1, x2, y2; some are crowds."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(folder / f"{name}.png")
    instances = []
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y1:y2, x1:x2] = True
        area_px = float(mask.sum())
        box_xyxy = (float(x1), float(y1), float(x2), float(y2))
        instances.append(Instance(f"{name}-{index}", encode_rle(mask), box_xyxy, area_px, is_crowd=index in crowds))
    return Picture(name, folder / f"{name}.png", tuple(instances), (HEIGHT, WIDTH))


@pytest.fixture
def dataset(tmp_path):
    """Three pictures with 2, 3 (one of them a crowd) and 1 objects."""
    folder = tmp_path / "pictures"
    pictures = (
        picture(folder, "a", [(10, 10, 15, 15), (30, 20, 40, 30)]),
        picture(folder, "b", [(5, 5, 9, 9), (20, 20, 40, 40), (0, 0, 60, 40)], crowds=[2]),
        picture(folder, "c", [(50, 30, 55, 35)]),
    )
    problem = Problem("empty mask", "annotation 9 of picture a", "has no pixel")
    return Dataset("instances.json", "coco", "5ha256", pictures, (problem,))


@pytest.fixture
def model(disc_engine):
    return Model(ModelSpec("disc"), disc_engine)


PROTOCOL = PromptsProtocol("box", first_prompt="box")


def session(dataset, model, folder=None, protocols=(PROTOCOL,), **options):
    values = [protocol.to_json() for protocol in protocols]
    return Session("prompts", "A title", dataset, [model], values, RunOptions(folder=folder, **options))


def measured(dataset, model, folder=None, **options):
    made = session(dataset, model, folder, **options)
    made.measure(PromptsTask([PROTOCOL], [model]))
    return made


def counts(made):
    return dict(made.report(5, "objects").counts)


def test_everything_is_counted_where_all_goes_well(dataset, model):
    made = measured(dataset, model)
    assert made.failures() == {}
    assert made.left_out() == Counter({"crowd mask": 1})
    assert counts(made) == {
        "pictures measured": 3,
        "pictures failed": 0,
        "objects measured": 5,
        "left out: crowd mask": 1,
    }
    assert list(made.entries) == ["a", "b", "c"]
    assert [len(entry["rows"]) for entry in made.entries.values()] == [2, 2, 1]


def test_each_object_of_a_failed_picture_is_counted_once(dataset, model):
    dataset.pictures[1].path.write_bytes(b"damaged")
    made = measured(dataset, model)
    assert list(made.failures()) == ["b"]
    assert counts(made) == {
        "pictures measured": 2,
        "pictures failed": 1,
        "objects measured": 5,
        "objects of failed pictures": 3,
    }
    (failure,) = made.report(5, "objects").failures
    assert failure["picture"] == "b"
    assert failure["reason"].startswith("b.png: ")


def test_a_picture_that_fails_while_it_is_measured_leaves_no_other_counts(dataset, model, monkeypatch):
    decode = model.engine.decode

    def fails_for_two(embedding, prompts, tokens):
        if len(prompts) == 2:
            raise RuntimeError("out of memory")
        return decode(embedding, prompts, tokens)

    monkeypatch.setattr(model.engine, "decode", fails_for_two)
    made = measured(dataset, model)  # a has two objects, b has two and a crowd
    assert made.failures() == {"a": "RuntimeError: out of memory", "b": "RuntimeError: out of memory"}
    assert made.left_out() == Counter()
    assert counts(made)["objects of failed pictures"] == 5


def test_reasons_are_added_up_over_pictures_and_reported_by_count(dataset, model):
    made = measured(dataset, model)
    made.entries["a"]["left_out"] = {"crowd mask": 2, "no mask in the file": 4, "never": 0}
    assert made.left_out() == Counter({"no mask in the file": 4, "crowd mask": 3})
    assert list(counts(made))[-2:] == ["left out: no mask in the file", "left out: crowd mask"]


def test_a_run_without_one_measured_picture_says_the_most_common_reason(dataset, model):
    Image.new("RGB", (5, 5)).save(dataset.pictures[0].path)

    class FailingTask:
        models = (model,)

        def entry(self, picture, *_):
            raise RuntimeError("CUDA is gone")

    with pytest.raises(ValueError, match=r"none of the 3 pictures .*, 2 of them for this: RuntimeError: CUDA is gone"):
        session(dataset, model).measure(FailingTask())


def test_a_dataset_without_pictures_is_refused(dataset, model):
    nothing = dataclasses.replace(dataset, pictures=())
    with pytest.raises(ValueError, match=r"instances.json has no picture to measure"):
        measured(nothing, model)


def test_names_are_unique_among_protocols_and_models(dataset, model):
    with pytest.raises(ValueError, match="protocols must have unique names, got 'box' more than once"):
        session(dataset, model, protocols=[PROTOCOL, PROTOCOL])
    with pytest.raises(ValueError, match="models must have unique names, got 'disc' more than once"):
        Session("prompts", "", dataset, [model, model], [PROTOCOL.to_json()], RunOptions())
    with pytest.raises(ValueError, match="protocols must have unique names, got none"):
        session(dataset, model, protocols=[])


def test_a_second_session_goes_on_and_says_so(dataset, model, tmp_path):
    hidden = dataset.pictures[2].path.rename(tmp_path / "hidden.png")
    first = measured(dataset, model, tmp_path / "run")
    assert first.report(4, "objects").notes == ()
    hidden.rename(dataset.pictures[2].path)
    second = measured(dataset, model, tmp_path / "run")
    assert second.failures() == {}
    (note,) = second.report(5, "objects").notes
    assert note.startswith("2 pictures were measured by an earlier run")


def test_notes_of_the_results_come_first(dataset, model, tmp_path):
    measured(dataset, model, tmp_path / "run")
    notes = measured(dataset, model, tmp_path / "run").report(5, "objects", notes=["Look."]).notes
    assert (notes[0], len(notes)) == ("Look.", 2)


@pytest.mark.parametrize("changed", ["seed", "weights", "dataset", "package", "selection"])
def test_another_run_is_refused_in_the_same_folder(dataset, model, tmp_path, monkeypatch, changed):
    measured(dataset, model, tmp_path / "run")
    protocols, message = [PROTOCOL], ""
    if changed == "seed":
        protocols, message = [dataclasses.replace(PROTOCOL, seed=3)], r"protocols\[0\].seed was 0, is 3"
    elif changed == "weights":
        (tmp_path / "tuned.pt").write_bytes(b"tuned")
        model = Model(ModelSpec("disc", checkpoint=str(tmp_path / "tuned.pt")), model.engine, is_of_spec=True)
        message = r"models\[0\].checkpoint was the caller's, is tuned.pt; models\[0\].weights_sha256 was "
    elif changed == "dataset":
        dataset, message = dataclasses.replace(dataset, sha256="0ther"), "dataset.sha256 was 5ha256, is 0ther"
    elif changed == "selection":
        dataset, message = dataset.some(2), "dataset.selection was all pictures, is the first 2 pictures"
    else:
        monkeypatch.setattr("mobile_sam.evaluate.session.__version__", "0.0.0")
        message = "package_version was .*, is 0.0.0"
    other = session(dataset, model, tmp_path / "run", protocols)
    with pytest.raises(ValueError, match=f"holds another run: .*{message}.*--restart"):
        other.measure(PromptsTask(protocols, [model]))
    assert not measured(dataset, model, tmp_path / "run", restarts=True).failures()


def test_what_else_makes_a_run_is_compared_and_reported(dataset, model, tmp_path):
    def with_reference(sha256):
        made = session(dataset, model, tmp_path / "run")
        made.extra = {"reference": {"name": "teacher", "sha256": sha256}}
        return made

    task = PromptsTask([PROTOCOL], [model])
    made = with_reference("aa")
    made.measure(task)
    assert made.report(5, "objects").dataset == {
        **dataset_facts(dataset),
        "pictures_sha256": dataset.pictures_sha256,
        **made.extra,
    }
    with pytest.raises(ValueError, match=r"reference.sha256 was aa, is bb"):
        with_reference("bb").measure(task)


def test_without_a_folder_nothing_is_left_behind(dataset, model, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    made = measured(dataset, model)
    write_report(made.report(5, "objects"), None)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_embeddings_are_kept_for_other_runs(dataset, model, tmp_path, monkeypatch):
    measured(dataset, model, tmp_path / "one", embeddings=tmp_path / "kept")
    monkeypatch.setattr(model.engine, "encode", lambda images: pytest.fail("encoded again"))
    assert not measured(dataset, model, tmp_path / "two", embeddings=tmp_path / "kept").failures()


def test_objects_of_missing_pictures_are_counted(dataset, model):
    problems = [
        Problem("missing picture", f"picture {name}", "no file", num_objects=num) for name, num in (("x", 3), ("y", 4))
    ]
    made = measured(dataclasses.replace(dataset, problems=tuple(problems)), model)
    assert counts(made)["objects of pictures that are missing or unusable"] == 7


def test_facts_of_a_dataset_say_which_pictures(dataset):
    assert dataset_facts(dataset.some(2)) == {
        "name": "instances.json",
        "kind": "coco",
        "sha256": "5ha256",
        "selection": "the first 2 pictures",
        "num_pictures": 2,
        "num_objects": 5,
    }


def test_the_report_holds_all_that_is_needed_to_run_again(dataset, disc_engine, tmp_path):
    checkpoint = tmp_path / "tuned.pt"
    checkpoint.write_bytes(b"tuned weights")
    model = Model(ModelSpec("tuned", checkpoint=str(checkpoint)), disc_engine, is_of_spec=True)
    protocol = with_settings(PROTOCOL, ["seed=7", "mask_rule=best"])
    options = RunOptions(tmp_path / "run", num_cases=0, command="mobile-sam evaluate prompts x.json")
    evaluate_prompts(dataset, [model], [protocol], options)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (told,) = report["protocols"]
    assert set(told) == {field.name for field in dataclasses.fields(PromptsProtocol)}
    assert told == json.loads(json.dumps(protocol.to_json()))
    assert (told["name"], told["seed"], told["mask_rule"]) == ("box seed=7 mask_rule=best", 7, "best")
    assert report["models"][0]["weights_sha256"] == hashlib.sha256(b"tuned weights").hexdigest()
    assert {"name", "engine", "engine_version", "precision", "device", "model_id"} <= set(report["models"][0])
    assert report["package_version"] == __version__
    assert report["command"] == "mobile-sam evaluate prompts x.json"
    assert report["dataset"]["sha256"] == "5ha256"
    assert report["counts"]["objects measured"] == 5
    assert report["problems"][0]["kind"] == "empty mask"
    assert {"encode", "decode", "compare"} <= set(report["profile"])
    assert report["wall_s"] > 0


def test_the_table_has_a_row_for_each_mask(dataset, model, tmp_path):
    evaluate_prompts(dataset, [model], [PROTOCOL], RunOptions(tmp_path / "run"))
    with open(tmp_path / "run" / "measurements.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["object"] for row in rows] == ["a-0", "a-1", "b-0", "b-1", "c-0"]
    # a disc of 40 / 16 = 2.5 px around (12.5, 12.5) on 5 x 5 pixels: all but the corners, as far as 2.83 px away
    assert float(rows[0]["iou"]) == pytest.approx(21 / 25, abs=0.05)
    assert [path.name for path in written_files(tmp_path / "run")] == FILES


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_pages_packages_all_else_is_written(dataset, model, tmp_path, monkeypatch, caplog, package):
    monkeypatch.setitem(sys.modules, package, None)
    evaluate_prompts(dataset, [model], [PROTOCOL], RunOptions(tmp_path / "run"))
    assert [path.name for path in written_files(tmp_path / "run")] == FILES[:2]
    assert read_json(tmp_path / "run" / "report.json").summaries[0].num_objects == 5
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "no report.html" in record.message
    assert package in record.message
    assert "mobile-sam[evaluate]" in record.message


def test_files_of_an_earlier_report_are_removed_and_no_others(dataset, model, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    evaluate_prompts(dataset, [model], [PROTOCOL], RunOptions(folder))
    (folder / "notes.txt").write_text("the user's")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    report = measured(dataset, model, folder, restarts=True).report(5, "objects")
    write_report(report, folder)  # no table, no page
    assert {path.name for path in folder.iterdir()} == {"report.json", "notes.txt", "measurements.jsonl"}
    assert read_json(folder / "report.json").title == "A title"


def test_a_folder_that_is_a_file_is_refused(dataset, model, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run is a file; name a folder"):
        measured(dataset, model, tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_are_not_replaced(dataset, model, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}, which no evaluation wrote"):
        measured(dataset, model, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir() if path.is_file()] == [(name, "mine")]


def test_a_run_with_a_journal_is_no_place_for_one_without(dataset, model, tmp_path):
    measured(dataset, model, tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run"):
        check_run_folder(tmp_path / "run", has_journal=False)


def test_a_picture_whose_file_has_changed_is_measured_again(dataset, model, tmp_path, monkeypatch):
    measured(dataset, model, tmp_path / "run")
    path, encoded, encode = dataset.pictures[1].path, [], model.engine.encode
    path.write_bytes(path.read_bytes() + b"more")
    monkeypatch.setattr(model.engine, "encode", lambda images: [encoded.append(1), *encode(images)][1:])
    measured(dataset, model, tmp_path / "run")
    assert encoded == [1]
