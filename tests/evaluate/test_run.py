"""The loop over pictures: each costs only itself, none is measured twice, and embeddings are computed once."""

import logging
import re
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.masks import encode_rle
from mobile_sam.data.embedding_store import EmbeddingStore
from mobile_sam.data.records import Instance, Picture
from mobile_sam.evaluate import run, stopwatch
from mobile_sam.evaluate.journal import Journal
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.run import PixelsTask, embed, open_picture, run_pictures
from mobile_sam.evaluate.stopwatch import Stopwatch

HEIGHT, WIDTH = 12, 16
RUN = {"kind": "test"}


class SeeingTask:
    """Writes down what it is given; raises what it is told to for a picture."""

    def __init__(self, model, errors=None):
        self.models = (model,)
        self.errors = errors or {}
        self.seen = []

    def entry(self, picture, embeddings, stopwatch, left_out):
        self.seen.append(picture.id)
        left_out["crowd mask"] += 1
        left_out["never"] += 0
        if picture.id in self.errors:
            raise self.errors[picture.id]
        return {"rows": [picture.id, list(embeddings[self.models[0].name].image_hw)]}


class SeeingPixelsTask(PixelsTask):
    """The same for a task that takes pixels."""

    def __init__(self, model, errors=None):
        self.models = (model,)
        self.errors = errors or {}

    def entry_of_pixels(self, opened, stopwatch, left_out):
        left_out["crowd mask"] += 1
        if opened.picture.id in self.errors:
            raise self.errors[opened.picture.id]
        return {"red": int(opened.pixels[0, 0, 0])}


@pytest.fixture
def model(disc_engine):
    return Model(ModelSpec("disc"), disc_engine)


@pytest.fixture
def pictures(tmp_path):
    """Five pictures "0" to "4", of different colours."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    made = []
    for index in range(5):
        path = folder / f"{index}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (50 * index, 0, 0)).save(path)
        made.append(Picture(str(index), path, size_hw=(HEIGHT, WIDTH)))
    return made


@pytest.fixture
def encoded(disc_engine, monkeypatch):
    """The red of each picture that the engine has encoded."""
    reds, encode = [], disc_engine.encode

    def counting(images):
        reds.extend(int(image[0, 0, 0]) for image in images)
        return encode(images)

    monkeypatch.setattr(disc_engine, "encode", counting)
    return reds


def measure(tmp_path, pictures, task, **options):
    with Journal(tmp_path / "measurements.jsonl", RUN) as journal:
        run_pictures(pictures, task, journal, **options)
    return journal.entries


def damage(picture, how):
    """Break a picture; return the words that tell."""
    if how == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(noise).save(picture.path, "JPEG")
        picture.path.write_bytes(picture.path.read_bytes()[:-60])
        return f"{picture.path.name}: .*(truncated|damaged|broken)"
    if how == "missing":
        picture.path.unlink()
        return rf"No such file or directory: .*{picture.path.name}"
    if how == "folder":
        picture.path.unlink()
        picture.path.mkdir()
        return picture.path.name
    if how == "text":
        picture.path.write_text("no picture")
        return f"{picture.path.name}: "
    if how == "empty":
        picture.path.write_bytes(b"")
        return f"{picture.path.name}: the 0 bytes"
    Image.new("RGB", (HEIGHT, WIDTH)).save(picture.path)
    return rf"{picture.path.name} has 12 x 16 px, annotated are 16 x 12 \(width x height\).*EXIF"


@pytest.mark.parametrize("how", ["truncated", "missing", "folder", "text", "empty", "turned"])
@pytest.mark.parametrize("broken", [0, 2, 4])
def test_a_broken_picture_costs_only_itself(tmp_path, pictures, model, how, broken):
    words = damage(pictures[broken], how)
    task = SeeingTask(model)
    entries = measure(tmp_path, pictures, task)
    healthy = [str(index) for index in range(5) if index != broken]
    assert list(entries) == ["0", "1", "2", "3", "4"]
    assert task.seen == healthy
    for name in healthy:
        assert entries[name]["rows"] == [name, [HEIGHT, WIDTH]]
        assert entries[name]["left_out"] == {"crowd mask": 1, "never": 0}
        assert entries[name]["file_bytes"] == pictures[int(name)].path.stat().st_size
    failed = entries[str(broken)]
    assert set(failed) == {"failed", "left_out"}
    assert re.search(words, failed["failed"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("out of\n  memory"), "RuntimeError: out of memory"),
        (KeyError("rows"), "KeyError: 'rows'"),
        (MemoryError(), "MemoryError: "),
        (ValueError("point (1, 2) lies outside"), "point (1, 2) lies outside"),
        (ValueError(), "ValueError: "),
        (OSError("device lost"), "device lost"),
    ],
)
def test_what_goes_wrong_in_the_task_costs_only_that_picture(tmp_path, pictures, model, error, reason):
    task = SeeingTask(model, {"1": error})
    entries = measure(tmp_path, pictures, task)
    assert task.seen == ["0", "1", "2", "3", "4"]
    assert [name for name, entry in entries.items() if "failed" in entry] == ["1"]
    assert entries["1"]["failed"] == reason


def test_nothing_is_counted_as_left_out_of_a_picture_that_failed(tmp_path, pictures, model):
    entries = measure(tmp_path, pictures, SeeingTask(model, {"1": RuntimeError("no")}))
    assert entries["1"]["left_out"] == {}
    assert entries["2"]["left_out"]["crowd mask"] == 1


def test_a_picture_that_an_engine_cannot_encode_costs_only_itself(tmp_path, pictures, model, monkeypatch):
    encode = model.engine.encode

    def fails_for_red(images):
        if images[0][0, 0, 0] == 100:
            raise RuntimeError("CUDA out of memory")
        return encode(images)

    monkeypatch.setattr(model.engine, "encode", fails_for_red)
    entries = measure(tmp_path, pictures, SeeingTask(model))
    assert {name: entry.get("failed") for name, entry in entries.items()} == {
        **dict.fromkeys("0134"),
        "2": "RuntimeError: CUDA out of memory",
    }


def test_a_task_that_takes_pixels_gets_them_and_nothing_is_encoded(tmp_path, pictures, model, encoded):
    pictures[3].path.unlink()
    task, store = SeeingPixelsTask(model, {"1": RuntimeError("no")}), EmbeddingStore(tmp_path / "store")
    entries = measure(tmp_path, pictures, task, store=store)
    assert {name: entry.get("red") for name, entry in entries.items()} == {
        "0": 0, "1": None, "2": 100, "3": None, "4": 200,
    }  # fmt: skip
    assert entries["1"] == {"failed": "RuntimeError: no", "left_out": {}}
    assert entries["2"]["left_out"] == {"crowd mask": 1}
    assert entries["2"]["file_bytes"] == pictures[2].path.stat().st_size
    assert encoded == []


def test_progress_counts_done_failed_and_all(tmp_path, pictures, model):
    told = []
    pictures[3].path.unlink()
    task = SeeingTask(model, {"1": RuntimeError("no")})
    measure(tmp_path, pictures, task, progress=lambda *numbers: told.append(numbers))
    assert told == [(0, 0, 5), (1, 0, 5), (2, 1, 5), (3, 1, 5), (4, 2, 5), (5, 2, 5)]
    told.clear()  # the two that failed are tried again
    measure(tmp_path, pictures, SeeingTask(model), progress=lambda *numbers: told.append(numbers))
    assert told == [(3, 0, 5), (4, 0, 5), (5, 1, 5)]


def test_a_second_run_measures_only_what_is_missing(tmp_path, pictures, model, encoded):
    pictures[3].path.rename(tmp_path / "away.png")
    measure(tmp_path, pictures[1:], SeeingTask(model, {"1": RuntimeError("no")}))
    assert encoded == [50, 100, 200]
    (tmp_path / "away.png").rename(pictures[3].path)
    encoded.clear()
    task = SeeingTask(model)
    entries = measure(tmp_path, pictures, task)
    assert task.seen == ["0", "1", "3"]
    assert encoded == [0, 50, 150]
    assert {name for name, entry in entries.items() if "failed" not in entry} == set("01234")
    third = SeeingTask(model)
    assert measure(tmp_path, pictures, third) == entries
    assert third.seen == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, pictures, model, stop):
    with pytest.raises(stop):
        measure(tmp_path, pictures, SeeingTask(model, {"2": stop()}))
    task = SeeingTask(model)
    entries = measure(tmp_path, pictures, task)
    assert task.seen == ["2", "3", "4"]
    assert list(entries) == ["0", "1", "2", "3", "4"]
    assert not any("failed" in entry for entry in entries.values())


def test_no_thread_is_left_behind_by_an_interruption(tmp_path, pictures, model):
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, pictures, SeeingTask(model, {"1": KeyboardInterrupt()}))
    assert threading.active_count() == before


def test_the_next_picture_is_read_while_one_is_measured_and_order_is_kept(tmp_path, pictures, model, monkeypatch):
    events, opened = [], {picture.id: threading.Event() for picture in pictures}

    def opening(picture):
        events.append(f"read {picture.id}")
        opened[picture.id].set()
        return open_picture(picture)

    class WaitingTask(SeeingTask):
        def entry(self, picture, *args):
            following = str(int(picture.id) + 1)
            assert following not in opened or opened[following].wait(10)  # it is being read meanwhile
            events.append(f"measure {picture.id}")
            return super().entry(picture, *args)

    monkeypatch.setattr(run, "open_picture", opening)
    task = WaitingTask(model)
    measure(tmp_path, pictures, task)
    assert task.seen == ["0", "1", "2", "3", "4"]
    assert [event for event in events if "read" in event] == [f"read {index}" for index in range(5)]
    for one, other in pairwise(range(5)):
        assert events.index(f"measure {one}") < events.index(f"measure {other}")
    assert "read 2" not in events[: events.index("measure 0")]  # one ahead, not all: pictures take memory


def test_no_pictures_are_no_work(tmp_path, model):
    told = []
    assert measure(tmp_path, [], SeeingTask(model), progress=lambda *numbers: told.append(numbers)) == {}
    assert told == [(0, 0, 0)]


def test_a_picture_of_unknown_size_is_read_as_it_is(pictures):
    opened = open_picture(Picture("0", pictures[0].path))
    assert opened.pixels.shape == (HEIGHT, WIDTH, 3)
    assert opened.content == pictures[0].path.read_bytes()


def test_stored_embeddings_spare_the_encoder(tmp_path, pictures, model, encoded):
    store = EmbeddingStore(tmp_path / "store")
    opened = open_picture(pictures[2])
    first = embed(opened, [model], store, Stopwatch())["disc"]
    again = embed(opened, [model], store, Stopwatch())["disc"]
    assert encoded == [100]
    assert np.array_equal(first.features, again.features)
    assert (again.image_hw, again.input_hw, again.model_id) == (first.image_hw, first.input_hw, "disc")


def test_two_names_of_one_model_share_stored_embeddings(tmp_path, pictures, model, encoded):
    other = Model(ModelSpec("again"), model.engine)
    embeddings = embed(open_picture(pictures[1]), [model, other], EmbeddingStore(tmp_path / "store"), Stopwatch())
    assert set(embeddings) == {"disc", "again"}
    assert encoded == [50]


def test_without_a_store_each_model_encodes(pictures, model, encoded):
    other = Model(ModelSpec("again"), model.engine)
    embed(open_picture(pictures[1]), [model, other], None, Stopwatch())
    assert encoded == [50, 50]


@pytest.mark.parametrize("changed", ["model_id", "name"])
def test_other_weights_and_engines_never_share_embeddings(tmp_path, pictures, model, encoded, changed):
    store, opened = EmbeddingStore(tmp_path / "store"), open_picture(pictures[1])
    embed(opened, [model], store, Stopwatch())
    setattr(model.engine, changed, "another")
    embedding = embed(opened, [model], store, Stopwatch())["disc"]
    assert encoded == [50, 50]
    assert embedding.model_id == model.engine.model_id


def test_a_damaged_embedding_is_computed_again_and_mended(tmp_path, pictures, model, encoded, caplog):
    store, opened = EmbeddingStore(tmp_path / "store"), open_picture(pictures[1])
    embed(opened, [model], store, Stopwatch())
    (path,) = store.folder.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:1000])
    embed(opened, [model], store, Stopwatch())
    assert encoded == [50, 50]
    assert "computed again" in caplog.text
    embed(opened, [model], store, Stopwatch())
    assert encoded == [50, 50]


def test_a_full_disk_only_warns(tmp_path, pictures, model, monkeypatch, caplog):
    def save(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Embedding, "save", save)
    with caplog.at_level(logging.WARNING):
        entries = measure(tmp_path, pictures, SeeingTask(model), store=EmbeddingStore(tmp_path / "store"))
    assert not any("failed" in entry for entry in entries.values())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_run_tells_the_stages_it_spent_time_in(tmp_path, pictures, model):
    watch = Stopwatch()
    measure(tmp_path, pictures, SeeingTask(model), store=EmbeddingStore(tmp_path / "store"), stopwatch=watch)
    assert list(watch.seconds) == ["read (waiting)", "store", "encode"]


def test_a_stopwatch_adds_up_stages_also_those_that_fail(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    watch = Stopwatch()
    with watch.stage("read"):
        pass
    with pytest.raises(ValueError, match="no"), watch.stage("encode"):
        raise ValueError("no")
    with watch.stage("read"):
        pass
    assert watch.seconds == {"read": 5.0, "encode": 2.0}


def test_left_out_reasons_of_a_task_are_plain_counts(tmp_path, pictures, model):
    entries = measure(tmp_path, pictures[:1], SeeingTask(model))
    assert type(entries["0"]["left_out"]) is dict
    assert Counter(entries["0"]["left_out"]) == Counter({"crowd mask": 1})


@pytest.mark.parametrize("orientation", [None, 1, 3])
def test_a_picture_that_its_exif_tag_turned_is_noted_where_it_has_objects(tmp_path, pictures, model, orientation):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    mask = np.ones((HEIGHT, WIDTH), bool)
    instance = Instance("1", encode_rle(mask), (0.0, 0.0, WIDTH, HEIGHT), float(mask.size))
    for picture in pictures[:2]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(picture.path, "JPEG", exif=exif)
    annotated = [replace(pictures[0], instances=(instance,)), pictures[1]]
    entries = measure(tmp_path, annotated, SeeingTask(model))
    noted = {"noted: pictures turned by their EXIF tag, taken upright": 1} if orientation == 3 else {}
    assert entries["0"]["left_out"] == {"crowd mask": 1, "never": 0, **noted}
    assert entries["1"]["left_out"] == {"crowd mask": 1, "never": 0}  # nothing is annotated: any frame will do
