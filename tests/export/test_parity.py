"""Parity: figures that can be foreseen, from variants that are made up and run in this process."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mobile_sam.core.images import read_image
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.evaluate.worker_process import WorkerError
from mobile_sam.export import parity, parity_worker
from mobile_sam.export.parity import Agreement, Parity, ParityError, ParityTask, measure_parity
from mobile_sam.export.parity_report import ParityReport, bounds_missed
from mobile_sam.export.parity_worker import ParityWorker
from mobile_sam.export.pictures import default_pictures
from mobile_sam.export.runner import Answer, EngineRunner
from mobile_sam.export.target import Bound

PICTURES = default_pictures()
CHELSEA = next(path for path in PICTURES if path.stem == "chelsea")  # 300 x 451
MANIFEST = ExportManifest("made-up", None, "fp32", "disc", "vit_t")
BOUND = Bound(embedding_error=1e-4, mask_iou_mean=0.99, mask_iou_min=0.9)
GOOD = Agreement(1e-6, 1.0, 0.995, (1.0, 1.0), (1.0, 0.995), 1e-5, 1e-6, 1.0, 20)


# Variants in this process


class ScriptedProcess:
    log: list[tuple[str, str]]
    dies_at: tuple[str, str] | None

    def __init__(self):
        self.worker, self.name = ParityWorker(), ""

    def ask(self, command, **fields):
        self.name = fields.get("variant", self.name)
        self.log.append((self.name, command))
        if self.dies_at == (self.name, command):
            raise WorkerError(f"its process ended at {command!r} with code 9: gone")
        return json.loads(json.dumps(getattr(self.worker, command)(**json.loads(json.dumps(fields)))))

    def seconds_since_start(self):
        return 2.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def variants(monkeypatch, disc_engine):
    """Discs for all three; `variants["export"]` is to be changed by a test. Nothing is read from the folder."""
    made = {name: EngineRunner(disc_engine) for name in ("reference", "default", "export")}
    monkeypatch.setattr(parity_worker, "open_reference", lambda *told: made["reference"])
    monkeypatch.setattr(parity_worker, "open_default", lambda *told: made["default"])
    monkeypatch.setattr(parity_worker, "open_export", lambda *told: made["export"])
    monkeypatch.setattr(parity, "ParityProcess", ScriptedProcess)
    ScriptedProcess.log, ScriptedProcess.dies_at = [], None
    return made


class ChangedRunner(EngineRunner):
    """The same masks with features, scores and the telling of tokens changed."""

    def __init__(self, engine, features=lambda f: f, answer=lambda a: a):
        super().__init__(engine)
        self.change_features, self.change_answer = features, answer

    def encode(self, image):
        return self.change_features(super().encode(image))

    def decode(self, prompt):
        return self.change_answer(super().decode(prompt))


@pytest.fixture
def measure(tmp_path, variants):
    def run(pictures=(CHELSEA,), manifest=MANIFEST, num_rounds=1):
        folder, workspace = tmp_path / "exported", tmp_path / "workspace"
        folder.mkdir()
        workspace.mkdir()
        manifest.write(folder)
        return measure_parity(ParityTask(folder, num_rounds=num_rounds), pictures, workspace)

    return run


def test_the_same_thing_three_times_agrees_in_all(measure):
    found = measure()
    agreement = found.agreements["export"]
    assert (agreement.embedding_error, agreement.mask_iou_min, agreement.same_choice) == (0, 1, 1)
    assert agreement.predicted_iou_error_max == 0
    assert agreement.clicks == (1, 1)
    assert agreement.boxes == (1, 1)
    assert 16 < agreement.num_prompts <= 32  # a click for each of 4 x 4 cells, and a box for each mask that is unlike
    assert bounds_missed(agreement, BOUND) == []


def test_figures_are_those_of_what_was_changed(measure, variants, disc_engine):
    def doubted(answer):
        return replace(answer, iou_predictions=np.array([0.75, 1.25, 0.95, 0.65], np.float32))  # of 0.5, 0.6, 0.7, 0.8

    variants["export"] = ChangedRunner(disc_engine, lambda features: features * np.float32(1.5), doubted)
    found = measure().agreements["export"]
    assert found.embedding_error == pytest.approx(0.5)
    assert found.mask_iou_min == 1  # the same token is compared, whatever is thought best
    assert found.same_choice == 0
    assert found.predicted_iou_error_max == pytest.approx(0.25)  # of boxes; of clicks 0.8 became 0.65
    assert found.predicted_iou_error_mean < 0.25


def test_masks_are_compared_token_by_token(measure, variants, disc_engine):
    def emptied(answer):  # discs of a radius of 160 model pixels are the best of three, of boxes the one of 40
        return replace(answer, masks=answer.masks - 1000 * (np.arange(4) == 0).reshape(4, 1, 1))

    variants["export"] = ChangedRunner(disc_engine, answer=emptied)
    found = measure().agreements["export"]
    assert found.clicks == (1, 1)
    assert found.boxes == (0, 0)
    assert found.mask_iou_min == 0


def test_a_graph_that_chose_itself_is_compared_with_sams_choice(measure, variants, disc_engine):
    def chosen(answer):
        return Answer(answer.masks[3:], answer.iou_predictions[3:], None)

    variants["export"] = ChangedRunner(disc_engine, answer=chosen)
    found = measure().agreements["export"]
    assert found.clicks == (1, 1)
    assert found.boxes[1] < 0.5  # it should have been mask 0, a disc of a quarter of the radius
    assert found.same_choice is None


def test_a_graph_that_has_not_the_mask_is_compared_in_one_that_it_has(measure, variants, disc_engine):
    variants["export"] = ChangedRunner(
        disc_engine, answer=lambda a: Answer(a.masks[1:], a.iou_predictions[1:], (1, 2, 3))
    )
    found = measure().agreements["export"]
    assert (found.boxes, found.same_choice) == ((1, 1), 1)


def test_features_that_are_not_comparable_are_left_out(measure, variants, disc_engine):
    variants["export"] = ChangedRunner(disc_engine, lambda features: np.zeros(0, np.float32))
    found = measure()
    assert found.agreements["export"].embedding_error is None
    assert found.agreements["default"].embedding_error == 0


def test_variants_take_turns_and_the_order_goes_round(measure):
    found = measure(num_rounds=3)
    timed = [name for name, command in ScriptedProcess.log if command == "click"]
    a, b, c = "reference", "default", "export"
    assert timed == [a, b, c, b, c, a, c, a, b]
    assert found.seconds["export"]["load"] == 2.0
    assert {stage for stages in found.seconds.values() for stage in stages} == {"load", "encode", "click"}


def test_a_variant_that_fails_is_told_with_its_reason(measure):
    ScriptedProcess.dies_at = ("export", "encode")
    with pytest.raises(ParityError, match="variant 'export' failed, its process ended at 'encode' with code 9: gone"):
        measure()


def test_pictures_that_do_not_fit_the_aspect_ratio_are_left_out_and_counted(measure, monkeypatch):
    monkeypatch.setattr(parity, "CLICKS_PER_SIDE", 1)
    wide = replace(MANIFEST, input_hw=(688, 1024))  # chelsea and rocket are 681 and 683 high, coffee is too
    found = measure(PICTURES, wide)
    assert (found.num_pictures, found.num_left_out, found.has_crops) == (3, 1, False)


def test_where_no_picture_fits_the_built_in_ones_are_cropped(measure, monkeypatch):
    monkeypatch.setattr(parity, "CLICKS_PER_SIDE", 1)
    found = measure([CHELSEA], replace(MANIFEST, input_hw=(1024, 512)))
    assert (found.num_pictures, found.num_left_out, found.has_crops) == (4, 1, True)


@pytest.mark.parametrize("input_hw", [(512, 1024), (1024, 16), (1008, 1024), (1024, 1008), (624, 1024), (16, 1024)])
def test_cropped_pictures_fit(tmp_path, input_hw):
    manifest = replace(MANIFEST, input_hw=input_hw)
    for path in parity.crop_pictures(PICTURES, input_hw, tmp_path):
        image_hw = read_image(path).shape[:2]
        assert parity.fits(image_hw, manifest)
        assert image_hw[0] / image_hw[1] == pytest.approx(input_hw[0] / input_hw[1], rel=0.2)


def test_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="parity is measured on pictures, got none"):
        measure_parity(ParityTask(tmp_path), [], tmp_path)


# The worker


def test_the_reference_gives_outer_edges_of_its_best_masks_as_boxes(tmp_path, disc_engine):
    drawn = np.zeros((4, 10, 20), bool)
    drawn[2, 3:6, 4:11] = True
    worker = ParityWorker()
    answer = Answer(np.zeros((4, 1, 1), np.float32), np.array([9, 0.1, 0.3, 0.2], np.float32), (0, 1, 2, 3))
    worker._runner = SimpleNamespace(decode=lambda prompt: answer, draw=lambda answer: drawn)
    worker._features = np.ones((1, 256, 1, 1), np.float32)
    told = worker.refer([{"points": [[5, 5]], "labels": [1]}], str(tmp_path / "out.npz"))
    assert told["chosen"] == [2]  # the best of masks 1 to 3
    assert told["boxes"] == [[4, 3, 11, 6]]
    with np.load(tmp_path / "out.npz") as arrays:
        masks = np.unpackbits(arrays["masks"], axis=-1, count=200).reshape(1, 4, 10, 20)
    assert (masks[0] == drawn).all()


def test_a_mask_of_next_to_nothing_makes_no_box():
    mask = np.zeros((100, 100), bool)
    mask[0, :9] = True
    assert parity_worker._box_of(mask) is None
    mask[0, 9] = True  # 0.1 %
    assert parity_worker._box_of(mask) == [0, 0, 10, 1]


def test_masks_are_judged_by_stability_where_the_export_does_so():
    worker = ParityWorker()
    worker._by_stability = True
    logits = np.array([[[0.5, 3.0, 3.0, -5.0]], [[9.0, 9.0, 9.0, 9.0]]], np.float32)
    answer = Answer(logits, np.array([0.9, 0.1], np.float32), None)
    assert worker._scores(answer) == pytest.approx([2 / 3, 1])


def test_iou_of_bits_is_that_of_the_masks():
    a, b = np.zeros(13, bool), np.zeros(13, bool)
    a[:6], b[4:13] = True, True
    assert parity.iou_of_bits(np.packbits(a), np.packbits(b), 13) == 2 / 13
    assert parity.iou_of_bits(np.packbits(a & False), np.packbits(b & False), 13) == 1


# The report


def report_of(agreement, joint=None, bound=BOUND, **changes):
    seconds = {name: {"load": 1.0, "encode": 0.2, "click": 0.02} for name in ("reference", "default")}
    seconds["export"] = {"load": 2.0, "encode": 0.1, "click": 0.03}
    memory = {"reference": 900.0, "default": 400.0, "export": 100.0}
    measured = Parity(
        {"default": GOOD, "export": agreement}, joint, seconds, memory, 4, 0, False, {"cpu": "of the test"}
    )
    manifest = replace(MANIFEST, files={"encoder.onnx": "ab"})
    return ParityReport(manifest, bound, replace(measured, **changes), None, {"encoder.onnx": 7}, {})


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"embedding_error": 0.5}, ["embedding error 0.5, at most 0.0001 was promised"]),
        ({"embedding_error": None}, []),
        ({"mask_iou_mean": 0.98}, ["mean mask IoU 0.98, at least 0.99 was promised"]),
        ({"mask_iou_min": 0.5}, ["worst mask IoU 0.5, at least 0.9 was promised"]),
        ({"predicted_iou_error_max": math.nan}, ["predicted IoU is not finite"]),
    ],
)
def test_each_bound_is_held(change, missed):
    report = report_of(replace(GOOD, **change))
    assert report.missed == missed
    assert report.within_bound == (not missed)
    assert all(one in report.table() for one in missed)


def test_the_joint_graph_must_keep_the_bound_too():
    report = report_of(GOOD, joint=replace(GOOD, mask_iou_min=0.1))
    assert report.missed == ["joint graph: worst mask IoU 0.1, at least 0.9 was promised"]


def test_a_figure_that_is_no_number_misses_its_bound():
    assert len(report_of(replace(GOOD, embedding_error=math.nan, mask_iou_mean=math.nan)).missed) == 2


def test_the_report_is_json_without_nan_and_relative_to_the_default_engine(tmp_path):
    path = report_of(replace(GOOD, embedding_error=math.nan), bound=replace(BOUND, embedding_error=math.inf)).write(
        tmp_path
    )
    told = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told["relative_to_default"] == {"load": 2.0, "encode": 0.5, "click": pytest.approx(1.5), "peak_mb": 0.25}
    assert told["files"] == {"encoder.onnx": {"bytes": 7, "sha256": "ab"}}
    assert told["bound"]["embedding_error"] is None
    assert told["within_bound"] is False


def test_the_table_has_what_was_measured():
    lines = report_of(GOOD, has_crops=True, joint=GOOD).table().splitlines()
    assert lines[0] == "made-up fp32, vit_t: 4 pictures, 20 prompts against PyTorch fp32 on the CPU"
    rows = {line.split("  ")[0]: line.split() for line in lines if line}
    assert rows["encoder, ms"][-4:] == ["200.0", "200.0", "100.0", "0.50"]
    assert rows["peak memory, MB"][-4:] == ["900", "400", "100", "0.25"]
    assert rows["mask IoU, worst"][-3:] == ["0.9", "at", "least"]
    assert "were cropped to it" in lines[-1]


def test_what_does_not_run_here_says_why(tmp_path):
    report = ParityReport(MANIFEST, BOUND, None, "it needs macOS", {}, {"operators": 12})
    assert report.table() == "made-up fp32, vit_t: not run here, it needs macOS"
    told = json.loads(report.write(tmp_path).read_text())
    assert (told["status"], told["why_not_run"], told["within_bound"]) == ("not run here", "it needs macOS", None)
    assert told["facts"] == {"operators": 12}
