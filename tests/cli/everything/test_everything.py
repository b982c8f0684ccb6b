"""`mobile-sam everything`: what it writes, prints and refuses; the generator is a quick one but for the last test."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from PIL import Image

import mobile_sam.cli.everything
from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
from mobile_sam.cli import main
from mobile_sam.cli.everything_folder import NO_DIFFERENCE
from mobile_sam.core.masks import encode_rle
from mobile_sam.everything.config import EverythingConfig

CSV_HEAD = (
    "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
    "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
)
ALL_FILES = ["0.png", "1.png", "2.png", "coco.json", "labels.png", "metadata.csv", "overlay.png", "settings.json"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_folder_is_that_of_amg_with_an_overlay_labels_and_coco(run, cat, tmp_path, rectangles):
    ended = run(cat, "-o", tmp_path / "out")
    assert ended.exit_code == 0
    assert names_in(tmp_path / "out") == ["cat"]
    folder = tmp_path / "out" / "cat"
    assert names_in(folder) == ALL_FILES
    for index, expected in enumerate(rectangles):
        mask = Image.open(folder / f"{index}.png")
        assert mask.mode == "L"
        assert_array_equal(np.asarray(mask), 255 * expected.astype(np.uint8))
    lines = (folder / "metadata.csv").read_text().splitlines()
    assert lines[0] == CSV_HEAD
    assert lines[1] == "0,532,2,1,28,19,2.5,1.5,0.99,0.96,0,0,64,48"
    assert [row["id"] for row in csv.DictReader(lines)] == ["0", "1", "2"]


def test_the_label_map_has_16_bits_and_gives_each_pixel_to_the_smallest_mask(run, cat, tmp_path):
    run(cat, "-o", tmp_path / "out")
    image = Image.open(tmp_path / "out" / "cat" / "labels.png")
    assert image.mode == "I;16"
    labels = np.asarray(image)
    assert (labels[6, 11], labels[6, 13], labels[40, 50], labels[0, 0]) == (2, 1, 3, 0)
    assert np.count_nonzero(labels == 2) == 8


def test_coco_json_holds_masks_and_how_they_were_made(run, cat, tmp_path, rectangles):
    run(cat, "-o", tmp_path / "all.json", "--points-per-side", "7", "--min-area", "2")
    content = json.loads((tmp_path / "all.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["cat.png"]
    assert [entry["area"] for entry in content["annotations"]] == [532, 8, 340]
    assert content["annotations"][1]["segmentation"] == encode_rle(rectangles[1])
    assert content["annotations"][1]["point_coords"] == [[10.5, 5.5]]
    info = content["info"]
    assert (info["version"], info["model"]["checkpoint"]) == (mobile_sam.__version__, "bundled")
    assert (info["settings"]["points_per_side"], info["settings"]["min_area"]) == (7, 2)


@pytest.mark.parametrize(("named", "found"), [([], "cat_everything.png"), (["-o", "cat.jpg"], "cat.jpg")])
def test_an_overlay_is_written_under_its_name_or_that_of_the_photo(run, cat, tmp_path, named, found):
    ended = run(cat, *named)
    assert ended.exit_code == 0
    assert names_in(tmp_path / "work") == [found]
    overlay = pixels(tmp_path / "work" / found).astype(int)
    assert (overlay[15, 20] != overlay[40, 50]).any()  # two masks, two colours
    assert abs(overlay[47, 5] - 60).max() <= 3  # nothing there


def test_a_picture_may_have_an_overlay_a_json_and_a_folder_at_once(run, cat, tmp_path):
    ended = run(cat, "-o", "a.png", "-o", "a.json", "-o", "folder")
    assert names_in(tmp_path / "work") == ["a.json", "a.png", "folder"]
    line, wrote = ended.out.splitlines()
    assert line.startswith("cat.png: 3 masks, ")
    assert line.endswith("s, a.png, folder/cat".replace("/", "\\" if sys.platform == "win32" else "/"))
    assert wrote == "wrote a.json"


def test_an_existing_folder_with_a_dot_in_its_name_is_a_folder(run, cat, tmp_path):
    (tmp_path / "work" / "v1.5").mkdir()
    run(cat, "-o", "v1.5")
    assert names_in(tmp_path / "work" / "v1.5") == ["cat"]


def test_write_chooses_what_is_in_the_folder(run, cat, tmp_path):
    run(cat, "-o", "out", "--write", "labels", "--write", "coco")
    assert names_in(tmp_path / "work" / "out" / "cat") == ["coco.json", "labels.png", "settings.json"]


def test_convert_to_rle_writes_the_list_of_records(run, cat, tmp_path, rectangles):
    run(cat, "-o", "out", "--convert-to-rle")
    assert [name for name in names_in(tmp_path / "work" / "out") if not name.startswith(".")] == ["cat.json"]
    records = json.loads((tmp_path / "work" / "out" / "cat.json").read_text())
    assert [record["segmentation"] for record in records] == [encode_rle(mask) for mask in rectangles]
    assert records[0].keys() >= {"area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}


def test_several_pictures_get_a_folder_each_or_one_json(run, photos, tmp_path, made):
    ended = run(photos, "-o", "out")
    assert names_in(tmp_path / "work" / "out") == ["cat", "dog"]
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["cat.png: 3 masks", "dog.png: 3 masks"]
    assert len(made) == 1
    run(photos / "cat.png", photos / "dog.png", "-o", "all.json")
    content = json.loads((tmp_path / "work" / "all.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["cat.png", "dog.png"]
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 1, 1, 2, 2, 2]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("flags", "areas"),
    [
        (["--min-area", "9"], [532, 340]),
        (["--max-masks", "2"], [532, 8]),
        (["--crop-n-layers", "1", "--max-masks", "2"], [532, 8]),  # which come in another order
        (["--crop-n-layers", "1", "--sort", "stability_score", "--max-masks", "1"], [340]),
        (["--sort", "area"], [532, 340, 8]),
        (["--sort", "area", "--max-masks", "2"], [532, 340]),
        (["--sort", "stability_score"], [340, 8, 532]),
    ],
)
def test_masks_are_limited_and_sorted_the_same_in_all_files(run, cat, tmp_path, flags, areas):
    run(cat, "-o", "out", *flags)
    folder = tmp_path / "work" / "out" / "cat"
    rows = list(csv.DictReader((folder / "metadata.csv").open()))
    assert [int(row["area"]) for row in rows] == areas
    for index, area in enumerate(areas):
        assert np.count_nonzero(pixels(folder / f"{index}.png")) == area
    assert not (folder / f"{len(areas)}.png").exists()
    assert [entry["area"] for entry in json.loads((folder / "coco.json").read_text())["annotations"]] == areas


def test_a_broken_picture_among_several_costs_only_that_picture(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(np.full((48, 64, 3), 255, np.uint8)).save(photos / "white.png")
    ended = run(photos, "-o", "out")
    assert ended.exit_code == 3
    assert names_in(tmp_path / "work" / "out") == ["cat", "dog"]
    broken, white, count = ended.err.splitlines()
    assert broken.startswith("broken.jpg failed: ")
    assert "is no picture in a format that Pillow knows" in broken
    assert white == "white.png failed: RuntimeError: white is too much"
    assert count == "2 of 4 pictures failed"
    ended = run(photos, "-o", "all.json")
    assert ended.exit_code == 3
    content = json.loads((tmp_path / "work" / "all.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["cat.png", "dog.png"]


def settings_flags():
    """The flags of the command by the name of their parameter."""
    command = typer.main.get_command(main.app).commands["everything"]
    return {parameter.name: parameter for parameter in command.params}


@pytest.mark.parametrize("known", dataclasses.fields(EverythingConfig), ids=lambda known: known.name)
def test_every_setting_is_a_flag_with_the_same_default_and_help(known):
    flags = settings_flags()
    if known.name in ("point_grids", "output_mode"):
        assert known.name not in flags
        return
    flag = flags[known.name]
    assert flag.opts == ["--" + known.name.replace("_", "-")]
    assert flag.default == known.default
    assert flag.help == known.metadata["help"]


def test_help_begins_with_what_users_need_and_ends_with_the_settings_of_sam():
    names = list(settings_flags())
    assert names[:3] == ["photo", "output", "mode"]
    assert names.index("points_per_side") == names.index("model") + 1
    assert names[-1] == "min_mask_region_area"


def test_flags_reach_the_generator(run, cat, made):
    values = {
        "mode": "fast", "points_per_side": 10, "points_per_batch": 6, "pred_iou_thresh": 0.25,
        "stability_score_thresh": 0.5, "stability_score_offset": 0.75, "box_nms_thresh": 0.125, "crop_n_layers": 2,
        "crop_nms_thresh": 0.375, "crop_overlap_ratio": 0.0625, "crop_n_points_downscale_factor": 3,
        "min_mask_region_area": 9,
    }  # fmt: skip
    run(cat, *(word for name, value in values.items() for word in ("--" + name.replace("_", "-"), value)))
    config = made[0].config.to_json()
    assert {name: config[name] for name in values} == values
    assert set(config) - set(values) == {"point_grids", "output_mode"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points-per-side", "0"], "points_per_side must be a whole number, 1 to 1024, got 0"),
        (["--stability-score-thresh", "2"], "stability_score_thresh must be a finite number from 0 to 1, got 2.0"),
        (["--crop-overlap-ratio", "nan"], "crop_overlap_ratio must be a finite number"),
        (["--mode", "quick"], "mode must be one of exact, fast, got 'quick'"),
        (["-o", "a.gif"], "the suffix '.gif' names no known format"),
        (["-o", "nowhere/a.png"], "the folder"),
        (["-o", "a.png", "-o", "b.png"], "-o a.png and -o b.png are both for the overlay"),
        (["-o", "file"], "file is a file; name a folder"),
        (["-o", "file/deeper"], "file is a file; name a folder"),
        (["-o", "a.png", "--write", "masks"], "--write is for results in a folder"),
        (["-o", "a.json", "--convert-to-rle"], "--convert-to-rle is for results in a folder"),
        (["-o", "out", "--convert-to-rle", "--write", "masks"], "exclude each other"),
        (["-o", "PHOTO"], "would replace the photo"),
        (["-o", "boxes.json", "--boxes", "boxes.json"], "would replace the boxes boxes.json"),
        (["--boxes", "nowhere.json"], "no annotation file at nowhere.json"),
        (["--boxes", "others.json"], "its image_id are 7, 8; expected a file's name, stem or number, as of cat.png"),
        (["--model", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["DOG"], "2 pictures need one -o that is a .json file or a folder (there already,"),
        (["DOG", "-o", "a.png"], "got -o a.png"),
        (["DOG", "-o", "a.json", "-o", "out"], "got -o a.json -o out"),
        (["BROKEN", "-o", "out"], "broken.png is empty"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_written(run, photos, tmp_path, arguments, words):
    here = tmp_path / "work"
    (here / "file").write_text("mine")
    found = [{"image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9} for i in (7, 8)]
    (here / "others.json").write_text(json.dumps(found))
    (here / "boxes.json").write_text(json.dumps(found[:1]))
    (here / "broken.png").write_bytes(b"")
    names = {"PHOTO": photos / "cat.png", "DOG": photos / "dog.png"}
    first = here / "broken.png" if "BROKEN" in arguments else photos / "cat.png"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ended = run(first, *(names.get(word, word) for word in arguments if word != "BROKEN"))
    assert (ended.exit_code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("mobile-sam: error: ")
    assert words in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_engine_that_cannot_run_is_no_failure_of_pictures(run, photos, monkeypatch):
    def make(config, engine, precision, model):
        raise ValueError(f"unknown engine {engine!r}")

    monkeypatch.setattr(mobile_sam.cli.everything, "_make_generator", make)
    ended = run(photos, "-o", "out", "--engine", "abacus")
    assert (ended.exit_code, ended.err) == (2, "mobile-sam: error: unknown engine 'abacus'\n")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_settings_that_make_no_difference_to_the_folder_make_none_to_masks(examples, mode):
    assert NO_DIFFERENCE == ("points_per_batch",)
    found = []
    for batch in (3, 64):
        config = EverythingConfig(mode, points_per_side=4, points_per_batch=batch, output_mode="coco_rle")
        records = SamAutomaticMaskGenerator.from_config(config).generate(examples / "chelsea.png")
        found.append([record["segmentation"] for record in records])
    assert len(found[0]) >= 3
    assert found[0] == found[1]


def test_one_real_picture(examples, tmp_path):
    command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", "everything"]
    photo = str(examples / "chelsea.png")
    ended = subprocess.run(
        [*command, photo, "--points-per-side", "4", "-o", "out", "-o", "a.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = list(csv.DictReader((tmp_path / "out" / "chelsea" / "metadata.csv").open()))
    assert 3 <= len(rows) <= 48
    for index, row in enumerate(rows):
        mask = pixels(tmp_path / "out" / "chelsea" / f"{index}.png")
        assert mask.shape == (300, 451)
        assert np.count_nonzero(mask) == int(row["area"])
        assert 0 <= float(row["point_input_x"]) <= 451
    annotations = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert [entry["area"] for entry in annotations] == [int(row["area"]) for row in rows]
    assert f"{len(rows)} masks" in ended.stdout
