"""Fine-tuning: what it gains, what it may not touch, what it says of it, and what it refuses."""

import io
import json
import logging
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mobile_sam import SamPredictor
from mobile_sam.build_sam import sam_from_checkpoint
from mobile_sam.checkpoint_files import load_state_dict_file
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.data.sources import open_dataset
from mobile_sam.distill.before_after import Comparison, dataset_of, warnings_of
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.finetune import FINE_TUNING, fine_tuning_config, finetune
from mobile_sam.distill.frozen_encoder import FrozenEncoder
from mobile_sam.distill.models import make_student
from mobile_sam.distill.train import TrainReport
from mobile_sam.distill.validation import Validator
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.evaluate.models import ModelSpec, make_models
from mobile_sam.evaluate.presets import prompts_protocols
from mobile_sam.evaluate.validate import evaluate_prompts

SETTINGS = {
    "lr": 3e-4, "max_steps": 16, "validate_every": 8, "batch_size": 2, "prompts_per_picture": 1, "ema_decay": 0.5,
    "num_workers": 0, "tensorboard": False, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def own(coco_file) -> tuple[Path, Path]:
    """COCO files of seven pictures to train on and of three others to validate on: one bright object each."""
    content = json.loads(coco_file.read_text())
    paths = []
    for name, numbers in (("own-train", range(7)), ("own-val", range(7, 10))):
        images = [image for image in content["images"] if image["id"] in numbers]
        annotations = [one for one in content["annotations"] if one["image_id"] in numbers]
        paths.append(coco_file.parent / f"{name}.json")
        paths[-1].write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def make_config(own, teacher_file):
    """Make the configuration of a short run from a model whose encoder knows nothing."""

    def make(**changes) -> TrainConfig:
        train, val = own
        start_from = changes.pop("start_from", str(teacher_file))
        return fine_tuning_config([train], [val], start_from=start_from, settings={**SETTINGS, **changes})

    return make


@pytest.fixture(scope="module")
def told() -> io.StringIO:
    """What the run of `tuned` logs."""
    return io.StringIO()


@pytest.fixture(scope="module")
def tuned(make_config, tmp_path_factory, pictures, told):
    """A decoder that was trained for 16 steps; the pictures themselves stand for general ones."""
    handler = logging.StreamHandler(told)
    logging.getLogger("mobile_sam").addHandler(handler)
    report = finetune(make_config(), tmp_path_factory.mktemp("tuned"), general=[pictures])
    logging.getLogger("mobile_sam").removeHandler(handler)
    return report


def test_a_few_steps_on_one_kind_of_object_raise_the_miou_of_others_of_it(tuned):
    for row in tuned.comparison.comparisons[:2]:
        assert (row.pictures, row.num_objects) == ("validation", 3)
        assert row.miou_after > row.miou_before + 0.2
    assert tuned.training.best[1] > 0


def test_the_encoder_and_its_statistics_stay_equal_to_the_bit_where_the_decoder_alone_is_trained(tuned, teacher_file):
    start = load_state_dict_file(teacher_file)
    assert any("running_mean" in name for name in start)
    for name in ("student", "best"):
        end = load_state_dict_file(tuned.training.folder / f"{name}.safetensors")
        changed = {key for key, value in start.items() if not torch.equal(value, end[key])}
        assert changed
        assert all(key.startswith("mask_decoder.") for key in changed)


def test_with_all_trained_the_encoder_learns_but_its_statistics_stay(make_config, tmp_path, teacher_file):
    finetune(make_config(trains="all", max_steps=1), tmp_path)
    start, end = (load_state_dict_file(path) for path in (teacher_file, tmp_path / "student.safetensors"))
    changed = {key.partition(".")[0] for key, value in start.items() if not torch.equal(value, end[key])}
    assert changed == {"image_encoder", "mask_decoder"}
    statistics = [key for key in start if "running_" in key]
    assert all(torch.equal(start[key], end[key]) for key in statistics)


def test_the_numbers_are_those_of_the_evaluator(tuned, own, teacher_file):
    files = {"before": str(teacher_file), "after": str(tuned.training.folder / "best.safetensors")}
    models = make_models([ModelSpec(name, "torch", path, "cpu") for name, path in files.items()])
    report = evaluate_prompts(open_dataset(own[1]), models, prompts_protocols(["box-single", "centre-best"]))
    found = {(row.protocol, row.model): row.mean for row in report.summaries}
    for row in tuned.comparison.comparisons[:2]:
        assert row.miou_before == pytest.approx(found[row.protocol, "before"], abs=1e-12)
        assert row.miou_after == pytest.approx(found[row.protocol, "after"], abs=1e-12)
        assert row.difference == pytest.approx(row.miou_after - row.miou_before, abs=1e-9)


def test_predicted_iou_is_compared_with_the_true_one(tuned, own):
    (row,) = [row for row in tuned.comparison.comparisons if row.protocol == "box-single"]
    predictor = SamPredictor(sam_from_checkpoint(tuned.training.folder / "best.safetensors"))
    errors = []
    for picture in open_dataset(own[1]).pictures:
        predictor.set_image(picture.path)
        (instance,) = picture.instances
        masks, predicted, _ = predictor.predict(box=np.array(instance.box_xyxy), multimask_output=False)
        iou = np.sum(masks[0] & instance.mask) / np.sum(masks[0] | instance.mask)
        errors.append(abs(predicted[0] - iou))
    assert row.iou_error_after == pytest.approx(np.mean(errors), abs=1e-4)


def test_general_pictures_without_annotations_are_compared_with_the_masks_before(tuned):
    row = tuned.comparison.comparisons[-1]
    assert (row.pictures, row.protocol, row.target) == ("general", "grid", "before")
    assert 0 <= row.miou_after < 1
    assert math.isnan(row.difference)


def test_general_pictures_that_are_trained_on_are_named(tuned, told):
    assert "7 of the 10 general pictures are also in the data" in told.getvalue()


def test_the_report_is_written_as_json_without_nan(tuned):
    content = json.loads(tuned.comparison.path.read_text(), parse_constant=pytest.fail)
    assert [row["protocol"] for row in content["comparisons"]] == ["box-single", "centre-best", "grid"]
    assert content["best"]["step"] == tuned.training.best[1]
    assert content["config"]["trains"] == "decoder"


def test_an_absurd_learning_rate_leaves_the_weights_of_before_and_says_so(make_config, tmp_path, teacher_file):
    found = finetune(make_config(lr=1e3, max_steps=1, ema_decay=0.0), tmp_path)
    assert found.training.best[1] == 0
    start, best, last = (
        load_state_dict_file(path)
        for path in (teacher_file, tmp_path / "best.safetensors", tmp_path / "student.safetensors")
    )
    assert all(torch.equal(value, best[key]) for key, value in start.items())
    assert any(not torch.equal(value, last[key]) for key, value in start.items())
    assert any("best.safetensors holds these" in warning for warning in found.comparison.warnings)
    assert all(row.difference == 0 for row in found.comparison.comparisons)


def test_without_val_a_part_of_the_data_is_held_out(coco_file, teacher_file):
    config = fine_tuning_config([coco_file], start_from=str(teacher_file))
    assert (config.num_held_out, config.held_out) == (2, ())
    assert (config.student, config.input_side) == ("vit_t_1m", 128)


@pytest.mark.parametrize("trains", FINE_TUNING)
def test_our_settings_keep_what_fine_tuning_may_not_touch(trains):
    config = FINE_TUNING[trains]
    assert (config.objective, config.mask_targets, config.parts) == ("prompted", "annotations", trains)
    assert config.freeze_batchnorm
    assert config.encoder_lr_factor < 1
    assert config.patience


def comparison(**changes) -> Comparison:
    made = Comparison("general", "box-single", "annotations", 9, 3, 0.7, 0.7, 0.0, (0.0, 0.0), 0.1, 0.1, 0.5, 0.5)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (comparison(), None),
        (comparison(miou_after=0.685, difference=-0.015), None),
        (comparison(miou_after=0.67, difference=-0.03), "general pictures, box-single: mIoU fell from 0.700 to 0.670"),
        (comparison(iou_error_after=0.13), "predicted IoU is off by 0.130 on average, 0.100 before"),
        (
            comparison(target="before", miou_before=math.nan, difference=math.nan, miou_after=0.8),
            "mIoU 0.800 with those before",
        ),
    ],
)
def test_a_warning_says_what_was_lost_and_what_to_do(row, words):
    warnings = warnings_of(TrainReport(Path(), 9, 9, (0.7, 3), 0, "finished"), [row])
    assert len(warnings) == (words is not None)
    if words is not None:
        assert words in warnings[0]
        assert "lower lr" in warnings[0]


@pytest.mark.parametrize(("differences", "is_warned"), [((-0.002, -0.001), True), ((-0.002, 0.01), False)])
def test_a_warning_says_that_the_evaluator_found_no_gain(differences, is_warned):
    rows = [comparison(), *(comparison(pictures="validation", difference=each) for each in differences)]
    warnings = warnings_of(TrainReport(Path(), 9, 9, (0.7, 3), 0, "finished"), rows)
    assert any("nothing improved" in warning for warning in warnings) == is_warned


def test_a_warning_says_that_general_pictures_were_not_measured():
    warnings = warnings_of(TrainReport(Path(), 9, 9, (0.7, 3), 0, "finished"), [comparison(pictures="validation")])
    assert [warning for warning in warnings if "--general" in warning]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trains": "encoder"}, "fine-tuning trains 'decoder' or 'all', got 'encoder'"),
        ({"objective": "coupled", "mask_targets": "teacher"}, "use `mobile-sam distill train`"),
        ({"student": "vit_t"}, "has student 'vit_t_1m', got 'vit_t'"),
        ({"input_side": 1024}, "has input_side 128, got 1024"),
        ({"start_from": "nowhere.pt"}, "nowhere.pt"),
        ({"trains": "head"}, "trains must be one of"),
    ],
)
def test_settings_that_are_no_fine_tuning_are_refused(make_config, settings, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make_config(**settings)


def test_pictures_to_train_on_are_refused_for_validation(own, teacher_file):
    train, _ = own
    with pytest.raises(
        ValueError, match=r"7 of the 7 pictures of own-train\.json are also trained on, such as 0, 1, 2"
    ):
        fine_tuning_config([train], [train], start_from=str(teacher_file))


def test_another_picture_of_the_same_name_may_validate(own, teacher_file, tmp_path):
    train, val = own
    content = json.loads(val.read_text())
    for image in content["images"]:
        source = val.parent / image["file_name"]
        image["file_name"] = f"{image['id'] - 7}.png"
        (tmp_path / image["file_name"]).write_bytes(source.read_bytes())
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert fine_tuning_config([train], [tmp_path / "val.json"], start_from=str(teacher_file)).num_held_out


def test_a_single_picture_needs_others_to_validate_on(coco_file, teacher_file, tmp_path):
    content = json.loads(coco_file.read_text())
    (tmp_path / "0.png").write_bytes((coco_file.parent / "0.png").read_bytes())
    content |= {"images": content["images"][:1], "annotations": content["annotations"][:1]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one\.json holds a single picture.*--val"):
        fine_tuning_config([tmp_path / "one.json"], start_from=str(teacher_file))


def test_pictures_without_masks_are_refused_before_the_run(pictures, teacher_file):
    with pytest.raises(ValueError, match=r"none of 10 pictures.*fine-tuning needs masks: a COCO"):
        fine_tuning_config([pictures], start_from=str(teacher_file))


def test_masks_of_another_size_than_their_pictures_are_refused(own, teacher_file, tmp_path):
    content = json.loads(own[0].read_text())
    for image in content["images"]:
        (tmp_path / image["file_name"]).write_bytes((own[0].parent / image["file_name"]).read_bytes())
        image["height"], image["width"] = 100, 200
    for one in content["annotations"]:
        one["segmentation"] = [[10, 10, 90, 10, 90, 90]]
    (tmp_path / "large.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotated as 100 x 200"):
        fine_tuning_config([tmp_path / "large.json"], start_from=str(teacher_file))


def test_general_pictures_that_are_not_there_are_missed_before_training(make_config, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        finetune(make_config(), tmp_path, general=["nowhere"])
    assert not list(tmp_path.iterdir())


def test_pictures_in_tars_reach_the_evaluator_as_files(tmp_path, coco_file):
    listed = open_dataset(coco_file).pictures
    with tarfile.open(tmp_path / "sa_0.tar", "w") as tar:
        for number, picture in enumerate(listed):
            counts = {**picture.instances[0].rle}
            annotation = {
                "image": {"height": picture.size_hw[0], "width": picture.size_hw[1]},
                "annotations": [{"id": number, "segmentation": counts, "bbox": [0, 0, 5, 5], "area": 9}],
            }
            for suffix, content in ((".png", picture.path.read_bytes()), (".json", json.dumps(annotation).encode())):
                member = tarfile.TarInfo(f"sa_{number}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    dataset = dataset_of(open_picture_set(tmp_path / "sa_0.tar"), tmp_path)
    assert len(dataset.pictures) == len(listed)
    for found, picture in zip(dataset.pictures, listed, strict=True):
        assert found.path.read_bytes() == picture.path.read_bytes()
        np.testing.assert_array_equal(found.instances[0].mask, picture.instances[0].mask)


@pytest.mark.parametrize(("max_gb", "num_calls"), [(1.0, 3), (0.0, 6), (40e-9, 5)])
def test_a_frozen_encoder_answers_the_same_whether_it_remembers_or_not(max_gb, num_calls):
    calls = []

    def encode(image):
        calls.append(image)
        return image[:, :, ::2, ::2] / 3

    encoder = FrozenEncoder(encode, max_gb)
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # 24 bytes of embedding each
    first, second = (encoder(["a", "b", "c"], images) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, images[:, :, ::2, ::2] / 3, atol=1e-3, rtol=0)
    assert len(calls) == num_calls


@pytest.mark.parametrize(("cache_gb", "num_calls"), [(1.0, 3), (0.0, 6)])
def test_held_out_pictures_are_encoded_once_where_the_encoder_stays(make_config, own, monkeypatch, cache_gb, num_calls):
    config = make_config(embedding_cache_gb=cache_gb)
    validator, calls, encode = Validator(config, open_picture_set(own[1]), None), [], TorchEngine.encode
    monkeypatch.setattr(TorchEngine, "encode", lambda engine, images: calls.append(images) or encode(engine, images))
    student = make_student(config)
    assert validator.measure(student) == validator.measure(student)
    assert len(calls) == num_calls
