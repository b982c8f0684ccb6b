"""What is told of a mask at low resolution must hold at the picture's size."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam import SamAutomaticMaskGenerator, read_image
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.grids import point_grid
from mobile_sam.core.masks import masks_to_boxes, stability_score, upscale_logits
from mobile_sam.core.predictions import DecodedAbove
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.upscale_window import upscale_window, window_above
from mobile_sam.everything.candidates import Candidates
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.everything.selection import select


def judged(image_hw, low_res_logits, **options):
    """Judge masks (K, 256, 256), all of a predicted IoU of 1; also return those that pass."""
    features = np.zeros((1, 256, 64, 64), np.float32)
    embedding = Embedding(features, image_hw, LongSideResize(image_hw).input_hw, "made up")
    candidates = Candidates(embedding, EverythingConfig(**options), 0.0)
    rows = np.arange(len(low_res_logits))
    decoded = DecodedAbove(len(rows), rows, np.ones_like(rows), low_res_logits, np.ones(len(rows), np.float32))
    return candidates, [candidate for candidate, _ in candidates.add(decoded, rows)]


def candidates_of(image_hw, low_res_logits, **options):
    return judged(image_hw, low_res_logits, **options)[1]


def low_res_noise(seed, num_cells, offset):
    coarse = np.random.default_rng(seed).normal(offset, 6, (num_cells, num_cells)).astype(np.float32)
    return cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)


LENGTHS = st.one_of(st.integers(1, 60), st.integers(60, 1100), st.sampled_from([1023, 1024, 1025, 2048, 3000]))


@settings(deadline=None, max_examples=150)
@given(LENGTHS, LENGTHS, st.integers(0, 10_000), st.sampled_from([3, 9, 40, 256]), st.sampled_from([0, -6, -15]))
@example(1024, 768, 7, 9, 0)
@example(1024, 767, 7, 9, 0)
def test_the_box_contains_the_inner_and_is_within_the_outer(height, width, seed, num_cells, offset):
    low_res = low_res_noise(seed, num_cells, offset)
    image_hw = (height, width)
    mask = upscale_logits(low_res, LongSideResize(image_hw).input_hw, image_hw) > 0
    assume(mask.any())
    ((x1, y1, x2, y2),) = masks_to_boxes(mask[None]).tolist()
    (candidate,) = candidates_of(image_hw, low_res[None], stability_score_thresh=0.0)
    left, top, right, bottom = candidate.outer_box
    assert 0 <= left <= x1 <= x2 <= right <= width - 1
    assert 0 <= top <= y1 <= y2 <= bottom <= height - 1
    left, top, right, bottom = candidate.inner_box
    if left <= right:
        assert x1 <= left <= right <= x2
        assert y1 <= top <= bottom <= y2


@pytest.mark.parametrize("image_hw", [(768, 1024), (600, 1000), (480, 640)])
def test_what_the_padding_adds_to_the_last_row_is_within_the_outer_box(image_hw):
    """The last row of the input frame is interpolated from one more of the logits, which lies in the padding."""
    low_res = np.full((256, 256), -1, np.float32)
    low_res[50:90, 60:100] = 5
    low_res[LongSideResize(image_hw).input_hw[0] // 4 :] = 20
    mask = upscale_logits(low_res, LongSideResize(image_hw).input_hw, image_hw) > 0
    assert mask[-1].all()
    (candidate,) = candidates_of(image_hw, low_res[None], stability_score_thresh=0.0)
    assert candidate.outer_box[3] == image_hw[0] - 1


@pytest.mark.parametrize("image_hw", [(480, 640), (1500, 2000), (4000, 3000)])
def test_the_bounds_of_a_square_are_tight(image_hw):
    low_res = np.full((256, 256), -5, np.float32)
    low_res[40:80, 60:120] = 5
    (candidate,) = candidates_of(image_hw, low_res[None])
    scale = max(image_hw) / 1024
    for box, slack in ((candidate.inner_box, -1), (candidate.outer_box, 1)):
        expected = np.array([60 * 4, 40 * 4, 120 * 4, 80 * 4]) * scale
        assert (slack * np.array([-1, -1, 1, 1]) * (box - expected) >= -1).all()
        assert np.abs(box - expected).max() <= 8 * scale + 2


def test_what_is_dropped_at_low_resolution_fails_at_the_pictures_size(onnx_predictor, examples):
    """And the margin is wide: of 192 masks of a photo no score differs by half of it."""
    picture = read_image(examples / "chelsea.png")
    (embedding,) = onnx_predictor.encode([picture])
    points_xy = point_grid(8) * picture.shape[1::-1]
    prompts = PromptBatch.of_points(points_xy, embedding.resize)
    candidates = Candidates(embedding, EverythingConfig(pred_iou_thresh=0.0), 0.0)
    kept, num_all, worst = set(), 0, 0.0
    for part in onnx_predictor.engine.decode_above(embedding, prompts, -np.inf):
        added = candidates.add(part, np.arange(len(prompts)))
        stabilities = {(found.prompt_row, found.mask_token): found.low_res_stability for found, _ in added}
        kept |= set(stabilities)
        for row, token, logits in zip(part.prompt_rows, part.mask_tokens, part.low_res_logits, strict=True):
            full = upscale_logits(logits, embedding.input_hw, embedding.image_hw)
            score, num_all = float(stability_score(full, 0.0, 1.0)), num_all + 1
            if (row, token) in stabilities:
                worst = max(worst, abs(score - stabilities[row, token]))
            else:
                assert score < 0.95
    assert num_all == 192
    assert 50 < len(kept) < 150  # some are dropped, and some kept
    assert worst < 0.05


@pytest.mark.parametrize("image_hw", [(1, 40), (40, 40), (60, 90), (300, 451), (1200, 1000)])
def test_a_mask_of_few_pixels_of_the_picture_is_not_dropped_at_low_resolution(blob_engine, make_picture, image_hw):
    """In tiny pictures the score says little at low resolution too: 100 pixels there are a few of the picture."""
    (embedding,) = blob_engine.encode([make_picture(image_hw)])
    prompts = PromptBatch.of_points(point_grid(6) * image_hw[::-1], embedding.resize)
    low_res = blob_engine.decode(embedding, prompts).low_res_logits.reshape(-1, 256, 256)
    kept = {found.prompt_row for found in candidates_of(image_hw, low_res)}
    for row, logits in enumerate(low_res):
        if stability_score(upscale_logits(logits, embedding.input_hw, image_hw), 0.0, 1.0) >= 0.95:
            assert row in kept


@pytest.mark.parametrize("position", [0, 128, 255])
@pytest.mark.parametrize("image_hw", [(1, 1), (2, 3), (17, 40), (40, 40)])
def test_an_object_smaller_than_a_pixel_of_a_tiny_picture_is_no_mask(image_hw, position):
    low_res = np.full((256, 256), -9, np.float32)
    low_res[position, position] = 9
    input_hw = LongSideResize(image_hw).input_hw
    expected = upscale_logits(low_res, input_hw, image_hw) > 0
    window = upscale_window(window_above(low_res, -1.0), input_hw, image_hw, 0.0, 1.0)
    assert window.box_xyxy == tuple(masks_to_boxes(expected[None])[0])
    assert np.count_nonzero(window.pixels) == np.count_nonzero(expected)


def test_equals_in_predicted_iou_stay_in_their_order():
    masks = np.stack([low_res_noise(seed, 9, 3) for seed in range(5)])
    candidates = Candidates(Embedding(np.zeros((1, 256, 64, 64), np.float32), (90, 80), (1024, 910), "made up"),
                            EverythingConfig(stability_score_thresh=0.0), 0.0)  # fmt: skip
    iou = np.array([0.9, 1.0, 0.9, 0.95, 1.0], np.float32)
    candidates.add(DecodedAbove(5, np.arange(5), np.full(5, 2), masks, iou), np.array([7, 3, 5, 1, 9]))
    assert len(candidates) == 5
    assert [candidate.prompt_row for candidate in candidates.by_predicted_iou()] == [3, 9, 1, 7, 5]


def test_memory_does_not_grow_with_candidates_times_pixels(blob_engine, make_picture):
    """Of a picture of 12 megapixels, 192 masks would be 2.3 GB."""
    picture = make_picture((3000, 4000))
    generator = SamAutomaticMaskGenerator(
        engine=blob_engine, points_per_side=8, pred_iou_thresh=0.0, stability_score_thresh=0.5, box_nms_thresh=1.0,
        output_mode="coco_rle",
    )  # fmt: skip
    tracemalloc.start()
    records = generator.generate(picture)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records) > 50
    num_output_bytes = sum(len(record["segmentation"]["counts"]) for record in records)
    assert peak_bytes < 80e6 + num_output_bytes


def test_a_generator_keeps_nothing_of_the_picture(blob_engine, make_picture):
    picture = make_picture((300, 200))
    generator = SamAutomaticMaskGenerator(engine=blob_engine, points_per_side=4)
    before = picture.copy()
    generator.generate(picture)
    assert_array_equal(picture, before)
    assert not generator.predictor.is_image_set


def test_a_stable_mask_of_a_thin_panorama_is_not_dropped():
    """Its input frame is 16 px high: four rows of logits, and the padding's first row, which the last pixels touch."""
    logits = np.full((256, 256), -9, np.float32)
    logits[:4, 20:200] = 5
    logits[4, 20:200] = 0  # in the padding, between the two cuts of the stability score
    candidates, passed = judged((160, 10_000), logits[None])
    assert len(passed) == 1
    (found,) = select(candidates, np.array([[5000.0, 80.0]]), (0, 0, 10_000, 160), (160, 10_000))
    assert found.stability_score > 0.95
    assert found.area_px == pytest.approx((4 * 180) * (4 * 10_000 / 1024) * (4 * 160 / 16), rel=0.02)
