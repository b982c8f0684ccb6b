"""Everything mode: what it finds, how far it is, and how it is stopped."""

import json

import numpy as np
import pytest

from mobile_sam import SamAutomaticMaskGenerator
from mobile_sam.core.rle import decode_rle

MATCH_IOU, LEAST_SHARE = 0.9, 0.9


def best_ious(masks, others):
    """Of each mask the largest IoU with any of the others: (N, H, W), (M, H, W) -> (N,)."""
    flat, other_flat = (
        masks.reshape(len(masks), -1).astype(np.float32),
        others.reshape(len(others), -1).astype(np.float32),
    )
    shared = flat @ other_flat.T
    return (shared / (flat.sum(1)[:, None] + other_flat.sum(1)[None] - shared)).max(axis=1)


@pytest.fixture(scope="module")
def searched(shared_visit, cat):
    """The tab after everything mode with 8 points per side, which takes a while; how many masks it found."""
    shared_visit.open(cat)
    shared_visit.tab.select_option("#points-per-side", "8")
    shared_visit.press("#everything")
    return shared_visit, shared_visit.state()["numFound"]


@pytest.fixture
def found(searched):
    """That tab; what a test does is undone."""
    visit, num_found = searched
    if visit.state()["pickedFound"] is not None:
        visit.tab.press("#canvas", "Escape")
    yield visit
    while visit.state()["numFound"] != num_found or visit.state()["objects"]:
        visit.press("#undo")
    visit.watch.check()


def test_the_masks_are_those_of_the_python_generator(found, onnx_predictor, cat):
    """Of both sides nine of ten have a partner: at the thresholds, the last digits of a score decide."""
    generator = SamAutomaticMaskGenerator(engine=onnx_predictor.engine, points_per_side=8, output_mode="coco_rle")
    ours = np.stack([decode_rle(record["segmentation"]) for record in generator.generate(cat)])
    found.tab.click("#export")
    found.tab.check("#export-all")
    with found.tab.expect_download() as download:
        found.tab.click("#export-coco")
    found.tab.keyboard.press("Escape")
    records = json.loads(download.value.path().read_text(encoding="utf-8"))["annotations"]
    page = np.stack([decode_rle(record["segmentation"]) for record in records])
    assert len(page) == found.state()["numFound"] > 3
    assert np.mean(best_ious(ours, page) >= MATCH_IOU) >= LEAST_SHARE
    assert np.mean(best_ious(page, ours) >= MATCH_IOU) >= LEAST_SHARE


def test_a_found_mask_is_picked_kept_and_refined(found):
    tab = found.tab
    num_found = found.state()["numFound"]
    tab.mouse.click(*found.at(225, 160))
    picked = found.state()["pickedFound"]
    assert picked is not None
    assert str(picked + 1) in tab.inner_text("#found-keep")  # no longer all of them
    found.press("#found-keep")
    state = found.state()
    assert (state["numFound"], len(state["objects"])) == (num_found - 1, 1)
    kept = found.mask()
    assert kept[160, 225]
    tab.click("#tool-foreground")
    found.click(225, 160)
    (object_,) = found.state()["objects"]
    assert (object_["box"] is not None, len(object_["clicks"])) == (True, 1)  # it goes on from the mask's box


def test_found_masks_are_deleted_and_undo_brings_them_back(found):
    num_found = found.state()["numFound"]
    found.press("#found-delete")
    assert found.state()["numFound"] == 0
    found.press("#undo")
    assert found.state()["numFound"] == num_found


def test_progress_is_shown_and_cancel_changes_nothing(visit):
    tab = visit.tab
    visit.click(225, 160)
    mask = visit.mask()
    tab.select_option("#points-per-side", "32")
    tab.click("#everything")
    tab.wait_for_function("() => document.getElementById('everything-progress').value > 0")
    progress = tab.evaluate("(({value, max}) => [value, max])(document.getElementById('everything-progress'))")
    assert 0 < progress[0] < progress[1]
    tab.click("#cancel")
    visit.settle()
    assert visit.state()["numFound"] == 0
    assert np.array_equal(visit.mask(), mask)
    assert "Stopped" in tab.inner_text("#status")
    visit.click(40, 200)  # the model is free again
    assert len(visit.state()["objects"][0]["clicks"]) == 2


def test_another_picture_ends_it(visit, tiny):
    visit.tab.select_option("#points-per-side", "32")
    visit.tab.click("#everything")
    visit.open(tiny)
    visit.settle()
    assert visit.state()["numFound"] == 0
    visit.click(15, 11)
    assert visit.mask().shape == (23, 31)
