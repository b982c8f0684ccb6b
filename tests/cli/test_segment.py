"""`mobile-sam segment` on examples/chelsea.png: what it writes and prints."""

import json

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask

from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.core.weights import ENCODER_PREFIX, fingerprint_of_file
from mobile_sam.export.model_folder import export_model

CLICK = ("--point", "200,150")
BOX = ("--box", "40,20,380,290")
EYES = ("--box", "130,80,210,150", "--box", "290,110,350,170")


@pytest.fixture
def photo(examples):
    return examples / "chelsea.png"


def pixels(path):
    return np.asarray(Image.open(path))


def answers(path):
    return json.loads(path.read_text())["masks"]


@pytest.mark.parametrize("prompt", [CLICK, BOX, (*CLICK, "--point", "20,20,0"), (*CLICK, *BOX)])
def test_the_json_and_the_mask_picture_are_one_mask_with_its_area_and_box(cli, photo, tmp_path, prompt):
    ended = cli("segment", photo, *prompt, "--style", "mask", "-o", tmp_path / "m.png", "--json", tmp_path / "m.json")
    assert (ended.exit_code, ended.err) == (0, "")
    mask = pixels(tmp_path / "m.png")
    (answer,) = answers(tmp_path / "m.json")
    assert_array_equal(mask, 255 * coco_mask.decode(answer["segmentation"]))
    rows, columns = np.nonzero(mask)
    assert answer["area"] == len(rows) > 1000
    x, y, width, height = answer["bbox"]
    assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
    assert answer["bbox"] == coco_mask.toBbox(answer["segmentation"]).tolist()


@pytest.mark.parametrize(
    ("prompt", "points", "labels", "box"),
    [
        (CLICK, [[200, 150]], [1], None),
        (BOX, [], [], [40, 20, 380, 290]),
        (("--point", "200,150", "--point", "20.5,20,0"), [[200, 150], [20.5, 20]], [1, 0], None),
        ((*BOX, "--point=200,150,1"), [[200, 150]], [1], [40, 20, 380, 290]),
    ],
)
def test_the_json_repeats_the_prompt_and_names_picture_and_engine(cli, photo, tmp_path, prompt, points, labels, box):
    cli("segment", photo, *prompt, "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
    report = json.loads((tmp_path / "o.json").read_text())
    prompt_written = report["masks"][0]["prompt"]
    assert (prompt_written["points"], prompt_written["labels"], prompt_written["box"]) == (points, labels, box)
    assert (report["image"], report["size"], report["engine"]) == (str(photo), [300, 451], "onnxruntime")
    assert all(spent_ms >= 0 for spent_ms in report["milliseconds"].values())


def test_a_cutout_is_opaque_where_the_mask_is_and_holds_nothing_else_of_the_photo(cli, photo, tmp_path):
    cli("segment", photo, *CLICK, "--style", "mask", "-o", tmp_path / "mask.png")
    cli("segment", photo, *CLICK, "--style", "cutout", "-o", tmp_path / "cutout.png")
    mask, rgba = pixels(tmp_path / "mask.png"), pixels(tmp_path / "cutout.png")
    assert_array_equal(rgba[..., 3], mask)
    assert_array_equal(rgba[..., :3], pixels(photo) * (mask > 0)[..., None])


def test_an_overlay_changes_the_mask_its_edge_and_the_prompts_and_leaves_the_rest(cli, photo, tmp_path):
    cli("segment", photo, *CLICK, "--point", "430,30,0", "--style", "mask", "-o", tmp_path / "mask.png")
    cli("segment", photo, *CLICK, "--point", "430,30,0", "-o", tmp_path / "overlay.png")
    mask, overlay, original = pixels(tmp_path / "mask.png") > 0, pixels(tmp_path / "overlay.png"), pixels(photo)
    is_changed = (overlay != original).any(axis=2)
    assert is_changed[mask].mean() > 0.99
    y, x = np.mgrid[:300, :451]
    is_near_mask = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) > 0
    assert not is_changed[~is_near_mask & (np.hypot(x - 430, y - 30) > 15)].any()
    red, green, _ = overlay[150, 200].astype(int)
    assert green > red + 50  # the object
    red, green, _ = overlay[30, 430].astype(int)
    assert red > green + 50  # not the object


def test_the_overlay_shows_the_box(cli, photo, tmp_path):
    cli("segment", photo, *BOX, "-o", tmp_path / "overlay.png")
    red, green, blue = pixels(tmp_path / "overlay.png")[290, 200].astype(int)  # on the lower edge
    assert min(red, green) > blue + 100


@pytest.mark.parametrize(
    ("prompts", "multimask", "style", "names"),
    [
        (CLICK, False, "overlay", ["o.png"]),
        (CLICK, True, "overlay", ["o-1.png", "o-2.png", "o-3.png"]),
        (EYES, False, "overlay", ["o.png"]),
        (EYES, True, "overlay", ["o-1.png", "o-2.png", "o-3.png"]),
        (EYES, False, "mask", ["o-1.png", "o-2.png"]),
        (EYES, True, "cutout", ["o-1.png", "o-2.png", "o-3.png", "o-4.png", "o-5.png", "o-6.png"]),
    ],
)
def test_pictures_are_numbered_where_there_are_several(cli, photo, tmp_path, prompts, multimask, style, names):
    flags = ["--multimask"] * multimask
    ended = cli("segment", photo, *prompts, *flags, "--style", style, "-o", tmp_path / "o.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [line for line in ended.out.splitlines() if line.startswith("wrote")] == [
        f"wrote {tmp_path / name}" for name in names
    ]


def test_each_box_is_an_object_and_the_numbered_masks_follow_the_json(cli, photo, tmp_path):
    cli("segment", photo, *EYES, "--style", "mask", "-o", tmp_path / "eye.png", "--json", tmp_path / "eyes.json")
    left, right = answers(tmp_path / "eyes.json")
    assert (left["object"], right["object"]) == (0, 1)
    assert left["bbox"][0] + left["bbox"][2] < right["bbox"][0]
    for answer, name in ((left, "eye-1.png"), (right, "eye-2.png")):
        assert_array_equal(pixels(tmp_path / name), 255 * coco_mask.decode(answer["segmentation"]))


def test_a_lone_click_gives_the_best_of_the_three_masks_and_a_box_the_single_one(cli, photo, tmp_path, cat_predictor):
    masks, iou, _ = cat_predictor.predict([[200, 150]], [1], multimask_output=True)
    cli("segment", photo, *CLICK, "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
    (answer,) = answers(tmp_path / "o.json")
    assert answer["predicted_iou"] == pytest.approx(iou.max(), abs=1e-6)
    assert_array_equal(coco_mask.decode(answer["segmentation"]), masks[iou.argmax()])
    masks, iou, _ = cat_predictor.predict(box=[40, 20, 380, 290], multimask_output=False)
    cli("segment", photo, *BOX, "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
    (answer,) = answers(tmp_path / "o.json")
    assert answer["predicted_iou"] == pytest.approx(iou[0], abs=1e-6)
    assert_array_equal(coco_mask.decode(answer["segmentation"]), masks[0])


def test_multimask_reports_three_masks_of_one_object(cli, photo, tmp_path):
    cli("segment", photo, *CLICK, "--multimask", "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
    three = answers(tmp_path / "o.json")
    assert [answer["object"] for answer in three] == [0, 0, 0]
    assert len({answer["area"] for answer in three}) == 3


def test_a_prompt_file_gives_what_the_options_give(cli, photo, tmp_path):
    objects = [{"box": [130, 80, 210, 150]}, {"points": [[200, 150], [430, 30]], "labels": [1, 0]}]
    (tmp_path / "prompts.json").write_text(json.dumps(objects))
    cli("segment", photo, "--prompts", tmp_path / "prompts.json", "-o", tmp_path / "o.png", "--json", tmp_path / "f")
    cli("segment", photo, "--box", "130,80,210,150", "-o", tmp_path / "o.png", "--json", tmp_path / "a")
    cli("segment", photo, *CLICK, "--point", "430,30,0", "-o", tmp_path / "o.png", "--json", tmp_path / "b")
    from_file = answers(tmp_path / "f")
    from_options = [*answers(tmp_path / "a"), *answers(tmp_path / "b")]
    assert [answer["object"] for answer in from_file] == [0, 1]
    assert [answer["segmentation"] for answer in from_file] == [answer["segmentation"] for answer in from_options]


def test_the_table_holds_score_area_and_box_and_the_stages_are_timed(cli, photo, tmp_path):
    ended = cli("segment", photo, *EYES, "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
    head, *rows, stages, _, _ = ended.out.splitlines()
    assert head.split()[:3] == ["object", "score", "area"]
    for row, answer in zip(rows, answers(tmp_path / "o.json"), strict=True):
        numbers = row.replace(",", " ").split()
        assert numbers[1] == f"{answer['predicted_iou']:.3f}"
        assert [int(number) for number in numbers[2:]] == [answer["area"], *answer["bbox"]]
    assert all(stage in stages for stage in ("read", "load", "encode", "decode", "write"))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".TIFF", ".PNG"])
def test_every_known_suffix_is_written(cli, photo, tmp_path, suffix):
    ended = cli("segment", photo, *CLICK, "-o", tmp_path / f"o{suffix}")
    assert ended.exit_code == 0
    assert Image.open(tmp_path / f"o{suffix}").size == (451, 300)


@pytest.mark.parametrize(("style", "name"), [("overlay", "chelsea_overlay.png"), ("mask", "chelsea_mask.png")])
def test_without_an_output_the_picture_lands_here_under_the_photos_name(cli, photo, tmp_path, monkeypatch, style, name):
    monkeypatch.chdir(tmp_path)
    cli("segment", photo, *CLICK, "--style", style)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_may_hold_spaces_and_letters_of_any_script(cli, photo, tmp_path):
    folder = tmp_path / "mes été photos 写真"
    folder.mkdir()
    copy = folder / "Katze grün.png"
    copy.write_bytes(photo.read_bytes())
    ended = cli("segment", copy, *CLICK, "-o", folder / "aus schnitt é.png", "--json", folder / "数.json")
    assert ended.exit_code == 0
    assert "aus schnitt é.png" in ended.out
    assert json.loads((folder / "数.json").read_text())["image"] == str(copy)
    assert len(list(folder.iterdir())) == 3


def test_existing_results_are_replaced(cli, photo, tmp_path):
    for _ in range(2):
        ended = cli("segment", photo, *CLICK, "-o", tmp_path / "o.png", "--json", tmp_path / "o.json")
        assert ended.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.json", "o.png"]


def test_help_shows_the_form_of_prompt_files_with_their_brackets(cli):
    words = "".join(cli("segment", "--help").out.split())
    assert "[[x,y]]" in words
    assert '"data":[x1,y1,x2,y2]' in words


def test_a_model_of_ones_own_answers_and_is_never_overwritten(cli, photo, tmp_path):
    folder = tmp_path / "student"
    torch.manual_seed(0)
    export_model(build_sam_vit_t_1m(input_side=256), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = tmp_path / "o.json"
    for engine in ("onnxruntime", "openvino", "torch"):
        ended = cli(
            "segment", photo, *CLICK, "--model", folder, "--engine", engine, "-o", tmp_path / "o.png", "--json", report
        )
        assert (ended.exit_code, ended.err) == (0, "")
        written = json.loads(report.read_text())
        weights = folder / "weights.safetensors"
        assert (written["engine"], written["model"]) == (engine, f"{fingerprint_of_file(weights, ENCODER_PREFIX)}-256")
    ended = cli("segment", photo, *CLICK, "--model", folder, "-o", tmp_path / "o.png", "--json", weights)
    assert ended.exit_code == 2
    assert "would replace the checkpoint" in ended.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_that_is_not_there_is_told(cli, photo, tmp_path):
    ended = cli("segment", photo, *CLICK, "--model", tmp_path / "gone", "-o", tmp_path / "o.png")
    assert ended.exit_code == 2
    assert f"there is no checkpoint {tmp_path / 'gone'}; the bundled weights are called 'mobile_sam'" in ended.err
    assert list(tmp_path.iterdir()) == []
