"""Which of the four masks each rule takes, on masks and predictions that tell the rules apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.predictions import Decoded
from mobile_sam.core.prompts import Prompt
from mobile_sam.evaluate.answers import Answers, ask, pair_iou, tokens_of_rules
from mobile_sam.evaluate.stopwatch import Stopwatch

ALL = (0, 1, 2, 3)
WIDTHS = (40, 10, 20, 30)
"""Of the four masks, which are bands from the left."""


def answers(predicted_ious, tokens=ALL, widths=WIDTHS, image_hw=(256, 256)):
    """One prompt's masks: bands of so many columns, 256 for the whole square."""
    bands = np.arange(256) < np.array(widths)[:, None, None]  # (4, 1, 256)
    logits = np.where(np.broadcast_to(bands, (4, 256, 256)), 10, -10).astype(np.float32)
    decoded = Decoded(logits[None, list(tokens)], np.array([predicted_ious], np.float32)[:, list(tokens)])
    side = max(image_hw)
    input_hw = (1024 * image_hw[0] // side, 1024 * image_hw[1] // side)
    return Answers(
        decoded, tokens, Embedding(np.zeros((1, 256, 64, 64), np.float32), image_hw, input_hw, ""), Stopwatch()
    )


def band(width):
    return np.broadcast_to(np.arange(256) < width, (256, 256))


@pytest.mark.parametrize(
    ("predicted_ious", "truth_width", "chosen"),
    [
        ((0.95, 0.2, 0.8, 0.6), 30, {"single": 0, "best": 2, "best-of-four": 0, "oracle": 3}),
        ((0.1, 0.9, 0.8, 0.6), 21, {"single": 0, "best": 1, "best-of-four": 1, "oracle": 2}),
        ((0.1, 0.2, 0.3, 0.9), 10, {"single": 0, "best": 3, "best-of-four": 3, "oracle": 1}),
        ((0.9, 0.1, 0.5, 0.2), 40, {"single": 0, "best": 2, "best-of-four": 0, "oracle": 3}),  # only 0 has IoU 1
        ((0.5, 0.5, 0.5, 0.5), 256, {"single": 0, "best": 1, "best-of-four": 0, "oracle": 3}),  # the first of equals
    ],
)
def test_each_rule_chooses_as_documented(predicted_ious, truth_width, chosen):
    some = answers(predicted_ious)
    for rule, token in chosen.items():
        answer = some.choose(0, rule, band(truth_width))
        assert answer.mask_token == token, rule
        assert_array_equal(answer.mask, band(WIDTHS[token]))
        assert answer.predicted_iou == np.float32(predicted_ious[token])
        assert_array_equal(answer.low_res_logits > 0, band(WIDTHS[token]))


def test_the_oracle_takes_the_first_of_masks_that_are_equally_good():
    assert answers((0.9, 0.1, 0.2, 0.3), widths=(5, 7, 7, 7)).choose(0, "oracle", band(7)).mask_token == 1
    assert answers((0.9, 0.1, 0.2, 0.3), widths=(5, 7, 7, 7)).choose(0, "oracle", band(0)).mask_token == 1


@pytest.mark.parametrize(("rule", "tokens"), [("single", (0,)), ("best", (1, 2, 3)), ("oracle", (1, 2, 3))])
def test_a_rule_chooses_the_same_whether_or_not_other_tokens_were_decoded_as_well(rule, tokens):
    predicted_ious = (0.95, 0.2, 0.8, 0.6)
    alone, together = answers(predicted_ious, tokens), answers(predicted_ious)
    alone, together = (some.choose(0, rule, band(10)) for some in (alone, together))
    assert (alone.mask_token, alone.predicted_iou) == (together.mask_token, together.predicted_iou)
    assert_array_equal(alone.mask, together.mask)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 256), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.integers(0, 256),
)
def test_the_oracle_is_never_worse_than_the_best_predicted(widths, predicted_ious, truth_width):
    some, truth = answers(predicted_ious, widths=widths), band(truth_width)
    ious = {rule: pair_iou(some.choose(0, rule, truth).mask, truth) for rule in ("best", "oracle")}
    assert ious["oracle"] >= ious["best"]
    expected = [min(w, truth_width) / max(w, truth_width, 1) for w in widths[1:]]
    assert ious["oracle"] == pytest.approx(max(expected))


def test_masks_have_the_size_of_the_picture_and_are_made_once():
    some = answers((0.9, 0.1, 0.2, 0.3), widths=(64,) * 4, image_hw=(300, 600))
    answer = some.choose(0, "single")
    assert_array_equal(answer.mask, np.broadcast_to(np.arange(600) < 150, (300, 600)))  # a quarter of the square
    assert some.choose(0, "best-of-four") is answer
    assert list(some.stopwatch.seconds) == ["masks"]


@pytest.mark.parametrize(
    ("rules", "tokens"),
    [
        (["single"], (0,)),
        (["best"], (1, 2, 3)),
        (["oracle", "best"], (1, 2, 3)),
        (["best-of-four"], ALL),
        (["oracle", "single"], ALL),
    ],
)
def test_only_the_tokens_that_rules_need_are_decoded(rules, tokens):
    assert tokens_of_rules(rules) == tokens


def test_prompts_are_asked_in_their_order_and_only_for_the_tokens_wanted(answering, embeddings):
    model = answering(lambda asked: band(int(asked.points_xy[0][0])))
    prompts = [Prompt.of(points=(x, 9)) for x in range(10, 30)]  # more than the engine takes at once
    stopwatch = Stopwatch()
    some = ask(model, embeddings(model)[model.name], prompts, (1, 3), stopwatch)
    assert [int(some.token(row, 3).mask[0].sum()) for row in range(20)] == list(range(10, 30))
    assert {asked.tokens for asked in model.engine.asked} == {(1, 3)}
    assert len(model.engine.asked) == 20
    assert list(stopwatch.seconds) == ["decode", "masks"]


@pytest.mark.parametrize("outside", [{"points": (257, 3)}, {"points": (3, -1)}, {"box": (0, 0, 300, 9)}])
def test_a_prompt_outside_the_picture_is_refused_before_any_is_decoded(answering, embeddings, outside):
    model = answering(lambda asked: band(9))
    prompts = [Prompt.of(points=(3, 3)), Prompt.of(**outside)]
    with pytest.raises(ValueError, match="lies outside the picture of 256 x 256"):
        ask(model, embeddings(model)[model.name], prompts, (0,), Stopwatch())
    assert not model.engine.asked


@pytest.mark.parametrize(
    ("widths", "iou"), [((10, 10), 1), ((10, 20), 0.5), ((0, 5), 0), ((0, 0), 0), ((256, 64), 0.25)]
)
def test_the_iou_of_two_bands_is_the_ratio_of_their_widths(widths, iou):
    assert pair_iou(*map(band, widths)) == iou
    assert pair_iou(*map(band, reversed(widths))) == iou
