"""`mobile-sam distill finetune`: what it prints and leaves, and one line for each mistake."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mobile_sam.distill.finetune  # noqa: F401  # before `cli` puts its engine in place of ours
from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam

QUICK = ("lr=1e-4", "max_steps=2", "batch_size=1", "prompts_per_picture=1", "num_workers=0", "tensorboard=no")
SIDE = 48


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    torch.manual_seed(0)
    save_sam(build_sam_vit_t_1m(input_side=64), path, name="vit_t_1m")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A COCO file of three pictures with a square on each."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number in range(3):
        pixels = rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8)
        pixels[8:40, 8:40] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        image = {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE}
        outline = [[8, 8, 40, 8, 40, 40, 8, 40]]
        content["images"].append(image)
        content["annotations"].append(
            {
                "id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1024,
                "bbox": [8, 8, 32, 32], "segmentation": outline,
            }
        )  # fmt: skip
    (folder / "squares.json").write_text(json.dumps(content))
    return folder / "squares.json"


@pytest.fixture
def finetune(cli, checkpoint):
    """Run the command from a small model, for two steps."""

    def run(*arguments, settings=QUICK, start=checkpoint):
        options = [word for setting in settings for word in ("--set", setting)]
        return cli("distill", "finetune", *arguments, "--start-from", start, *options)

    return run


def test_it_prints_before_and_after_and_leaves_a_model_that_runs(finetune, source, tmp_path, cli):
    outcome = finetune(source, "--out", tmp_path, "--general", source)
    assert outcome.exit_code == 0, outcome.err
    assert outcome.out.startswith("finished after 2 steps; best validation mIoU ")
    for word in ("validation (1)", "general (3)", "box-single", "centre-best", "correlation"):
        assert word in outcome.out
    content = json.loads((tmp_path / "finetune.json").read_text())
    assert {row["pictures"] for row in content["comparisons"]} == {"validation", "general"}
    assert all(f"warning: {warning}" in outcome.out for warning in content["warnings"])
    assert (tmp_path / "before-after" / "general" / "report.json").is_file()
    again = finetune(source, "--out", tmp_path, "--general", source)
    assert (again.exit_code, again.out) == (0, outcome.out)  # nothing is trained once more

    mask = tmp_path / "mask.png"
    model = tmp_path / "best.safetensors"
    cut = cli("segment", source.parent / "0.png", "--point", "20,20", "--engine", "torch", "--model", model, "-o", mask)
    assert cut.exit_code == 0, cut.err
    assert mask.is_file()


def test_a_recipe_is_what_it_begins_with(finetune, source, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from dataclasses import replace\nfrom mobile_sam.distill.finetune import FINE_TUNING\n"
        "RECIPE = replace(FINE_TUNING['all'], weight_decay=0.125)\n"
    )
    outcome = finetune(source, "--out", tmp_path / "run", "--recipe", recipe)
    assert outcome.exit_code == 0, outcome.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["weight_decay"], config["trains"], config["max_steps"]) == (0.125, "all", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trains", "encoder"), "fine-tuning trains 'decoder' or 'all', got 'encoder'"),
        (("--general", "nowhere"), "no picture or folder of pictures at nowhere"),
        (("--set", "learning_rate=1"), "a training run has no setting 'learning_rate'"),
        (("--val", "nowhere.json"), "nothing at nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(finetune, source, tmp_path, arguments, words):
    outcome = finetune(source, "--out", tmp_path / "run", *arguments)
    assert outcome.exit_code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_there_is_one_line(finetune, source, tmp_path):
    outcome = finetune(source, "--out", tmp_path / "run", start="nowhere.pt")
    assert (outcome.exit_code, len(outcome.err.splitlines())) == (2, 1)
    assert "nowhere.pt" in outcome.err
