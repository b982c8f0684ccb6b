import threading
import time

import numpy as np
import pytest

from mobile_sam.core.prompts import Prompt
from mobile_sam.predictor import SamPredictor
from mobile_sam.serve import prompt_batcher
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.prompt_batcher import PromptBatcher
from mobile_sam.serve.work_queue import QueueFull, ServiceClosed

PATIENCE_S = 60
CLICK, CLICKS = Prompt.of([[30, 20]]), Prompt.of([[30, 20], [5, 5]], [1, 0])
BOX = Prompt.of(box=[10, 5, 50, 40])


@pytest.fixture
def batcher(disc_engine):
    made = PromptBatcher(disc_engine, ServeMetrics())
    yield made
    made.finish(time.monotonic())


@pytest.fixture
def decodes(disc_engine, batcher, gate):
    """The gate before the decoder."""
    return gate(disc_engine, "_decode_some")


@pytest.fixture
def embed(disc_engine):
    def embedding_of(shade=0, size_hw=(48, 64)):
        return disc_engine.encode([np.full((*size_hw, 3), shade, np.uint8)])[0]

    return embedding_of


def ask(batcher, embedding, prompts, candidates="single", **options):
    return batcher.submit(embedding, prompts, candidates, lambda _, prediction: prediction, **options)


def prompts_in(call):
    """How many prompts a call of the decoder was of."""
    _, prompts, _ = call
    return len(prompts)


@pytest.mark.parametrize(
    ("candidates", "prompt", "expected"),
    [
        ("auto", CLICK, [3]),  # the best of three by the engine's scores
        ("auto", CLICKS, [0]),
        ("auto", BOX, [0]),
        ("auto", Prompt.of([[30, 20]], box=[10, 5, 50, 40]), [0]),
        ("single", CLICK, [0]),
        ("three", BOX, [1, 2, 3]),
        ("all", CLICK, [0, 1, 2, 3]),
    ],
)
def test_candidates_say_which_masks_come_back(batcher, disc_engine, embed, candidates, prompt, expected):
    embedding = embed()
    (found,) = ask(batcher, embedding, [prompt], candidates).result(PATIENCE_S)
    assert found.mask_tokens == tuple(expected)
    assert found.iou_predictions.tolist() == pytest.approx([0.5 + token / 10 for token in expected])
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_embedding(embedding)
    (single,), (three,) = (predictor.predict_batch([prompt], wants_three) for wants_three in (False, True))
    four = np.concatenate([single.masks, three.masks])
    assert np.array_equal(found.masks, four[expected])
    assert found.low_res_logits.shape == (len(expected), 256, 256)


def test_answers_come_in_the_order_of_the_prompts(batcher, disc_engine, embed):
    embedding = embed()
    prompts = [Prompt.of([[x, 20]]) if x % 3 else Prompt.of([[x, 20], [1, 1]], [1, 0]) for x in range(2, 40)]
    found = ask(batcher, embedding, prompts, "auto").result(PATIENCE_S)
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_embedding(embedding)
    for prompt, prediction in zip(prompts, found, strict=True):
        (alone,) = predictor.predict_batch([prompt], multimask_output=len(prompt.labels) == 1)
        assert np.array_equal(prediction.masks[0], alone.masks[alone.best])


def test_what_answer_makes_of_masks_is_what_comes_back(batcher, embed):
    future = batcher.submit(
        embed(), [CLICK, BOX], "all", lambda row, prediction: (row, prediction.masks.shape, prediction.mask_tokens)
    )
    assert future.result(PATIENCE_S) == [(0, (4, 48, 64), (0, 1, 2, 3)), (1, (4, 48, 64), (0, 1, 2, 3))]


def test_no_prompts_have_no_answers(batcher, embed):
    assert ask(batcher, embed(), []).result(PATIENCE_S) == []


def test_calls_about_one_picture_that_wait_are_decoded_together(batcher, decodes, embed):
    embedding = embed()
    futures = [ask(batcher, embedding, [CLICK])]
    decodes.wait_for_call()
    futures += [ask(batcher, embedding, [prompt]) for prompt in (CLICK, BOX, CLICKS)]
    assert batcher.num_waiting == 3
    decodes.let(2)
    predictions = [future.result(PATIENCE_S) for future in futures]
    assert [prompts_in(call) for call in decodes.calls] == [1, 3]
    assert [len(answer) for answer in predictions] == [1, 1, 1, 1]
    assert np.array_equal(predictions[0][0].masks, predictions[1][0].masks), "the same alone and with others"
    assert not np.array_equal(predictions[1][0].masks, predictions[2][0].masks)


def test_a_lone_call_waits_for_nobody(batcher, decodes, embed):
    for _ in range(3):
        decodes.let()
        ask(batcher, embed(), [CLICK]).result(PATIENCE_S)
    assert [prompts_in(call) for call in decodes.calls] == [1, 1, 1]


def test_prompts_of_different_masks_are_not_mixed(batcher, decodes, embed):
    embedding = embed()
    first = ask(batcher, embedding, [CLICK])
    decodes.wait_for_call()
    later = [ask(batcher, embedding, [CLICK], candidates) for candidates in ("three", "single", "three")]
    decodes.let(3)
    assert [len(future.result(PATIENCE_S)[0].masks) for future in (first, *later)] == [1, 3, 1, 3]
    assert [(prompts_in(call), call[2]) for call in decodes.calls[1:]] == [(2, (1, 2, 3)), (1, (0,))]


def test_pictures_take_turns(batcher, decodes, embed):
    cat, dog = embed(1), embed(2)
    futures = [ask(batcher, cat, [CLICK] * 40)]
    decodes.wait_for_call()
    futures += [ask(batcher, dog, [CLICK]), ask(batcher, cat, [CLICK])]
    decodes.let(100)
    for future in futures:
        future.result(PATIENCE_S)
    order = ["dog" if call[0] is dog else "cat" for call in decodes.calls]
    assert order[:4] == ["cat", "cat", "cat", "dog"]  # one round, then one of 4 prompts and 1, whose turn it was
    assert len(order) > 10


def test_a_call_of_one_prompt_does_not_wait_for_all_of_a_large_one(batcher, decodes, embed):
    embedding, answered = embed(), []
    large = ask(batcher, embedding, [CLICK] * 40)
    decodes.wait_for_call()
    small = ask(batcher, embedding, [CLICK])
    large.add_done_callback(lambda _: answered.append("large"))
    small.add_done_callback(lambda _: answered.append("small"))
    decodes.let(100)
    assert len(large.result(PATIENCE_S)) == 40
    small.result(PATIENCE_S)
    assert answered == ["small", "large"]


def test_a_bad_call_fails_alone(batcher, disc_engine, embed, gate, monkeypatch):
    decode = disc_engine._decode_some

    def crash_at_boxes(embedding, prompts, tokens):
        if (prompts.labels == 2).any():
            raise RuntimeError("no boxes")
        return decode(embedding, prompts, tokens)

    monkeypatch.setattr(disc_engine, "_decode_some", crash_at_boxes)
    embedding, decodes = embed(), gate(disc_engine, "_decode_some")
    first = ask(batcher, embedding, [CLICK])
    decodes.wait_for_call()  # the others will be decoded together
    futures = [ask(batcher, embedding, [prompt]) for prompt in (CLICK, BOX, CLICK, BOX, CLICKS)]
    decodes.let(100)
    assert first.result(PATIENCE_S)
    errors = [future.exception(PATIENCE_S) for future in futures]
    assert prompts_in(decodes.calls[1]) > 1
    assert [str(error) if error else None for error in errors] == [None, "no boxes", None, "no boxes", None]


def test_an_answer_that_crashes_fails_its_own_call(batcher, embed):
    def crash(row, prediction):
        if row == 1:
            raise KeyError("row")

    bad, good = batcher.submit(embed(), [CLICK, CLICK], "auto", crash), ask(batcher, embed(), [CLICK])
    with pytest.raises(KeyError):
        bad.result(PATIENCE_S)
    assert good.result(PATIENCE_S)


def test_what_its_caller_has_left_is_not_decoded(batcher, decodes, embed):
    embedding = embed()
    first = ask(batcher, embedding, [CLICK])
    decodes.wait_for_call()
    left, other = ask(batcher, embedding, [BOX] * 5), ask(batcher, embed(), [BOX])
    assert left.cancel()
    stayed = ask(batcher, embedding, [CLICK])
    decodes.let(100)
    for future in (first, stayed, other):
        assert future.result(PATIENCE_S)
    assert [prompts_in(call) for call in decodes.calls] == [1, 1, 1]


def test_a_large_call_stops_when_its_caller_leaves(batcher, decodes, embed):
    large = ask(batcher, embed(), [CLICK] * 40)
    decodes.wait_for_call()
    assert large.cancel()
    decodes.let(100)
    assert ask(batcher, embed(), [CLICK]).result(PATIENCE_S)
    assert len(decodes.calls) == 2


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([CLICK, Prompt.of([[65, 20]])], r"point \(65, 20\) lies outside"),
        ([Prompt.of(box=[0, 0, 64, 80])], "box .* lies outside"),
        ([Prompt.of(mask=np.zeros((9, 9), np.float32))], "mask logits must be"),
        ([Prompt.of(mask=np.ones((9, 9), bool))], "must have the picture's size"),
    ],
)
def test_wrong_prompts_are_refused_at_once(batcher, embed, prompts, match):
    with pytest.raises(ValueError, match=match):
        ask(batcher, embed(), prompts)


def test_unknown_candidates_and_foreign_embeddings_are_refused_at_once(batcher, embed, cat_embedding):
    with pytest.raises(ValueError, match="candidates must be one of auto, single, three, all, got 'best'"):
        ask(batcher, embed(), [CLICK], "best")
    with pytest.raises(ValueError, match="made by encoder"):
        ask(batcher, cat_embedding, [CLICK])


def test_masks_of_more_bytes_than_allowed_are_refused_at_once(batcher, embed):
    num_bytes = 4 * 48 * 64
    assert ask(batcher, embed(), [CLICK], "all", max_mask_bytes=num_bytes).result(PATIENCE_S)
    assert ask(batcher, embed(), [CLICK] * 4, "auto", max_mask_bytes=num_bytes).result(PATIENCE_S)
    with pytest.raises(ValueError, match="5 masks of the picture's size take 15360 bytes, more than 12288"):
        ask(batcher, embed(), [CLICK] * 5, "auto", max_mask_bytes=num_bytes)


def test_mask_prompts_and_others_are_answered_side_by_side(batcher, decodes, embed):
    embedding = embed()
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:40] = True
    first = ask(batcher, embedding, [CLICK])
    decodes.wait_for_call()
    both = ask(batcher, embedding, [Prompt.of(mask=mask), CLICK])
    decodes.let(100)
    from_mask, from_click = both.result(PATIENCE_S)
    assert from_mask.masks[0][20, 30]
    assert [prompts_in(call) for call in decodes.calls] == [1, 1, 1], "the decoder takes longer where there are masks"
    assert np.array_equal(from_click.masks, first.result(PATIENCE_S)[0].masks)


def test_more_prompts_than_may_wait_are_turned_away(batcher, decodes, embed, monkeypatch):
    monkeypatch.setattr(prompt_batcher, "MAX_PENDING_PROMPTS", 5)
    embedding = embed()
    large = ask(batcher, embedding, [CLICK] * 6)  # a call that is too large alone is taken where nothing waits
    with pytest.raises(QueueFull, match="6 prompts wait to be answered already") as raised:
        ask(batcher, embedding, [CLICK])
    assert raised.value.retry_after_s > 0
    decodes.let(100)
    large.result(PATIENCE_S)
    assert ask(batcher, embedding, [CLICK] * 5).result(PATIENCE_S)


def test_prompts_that_would_wait_too_long_are_turned_away(disc_engine, embed, gate):
    batcher = PromptBatcher(disc_engine, ServeMetrics(), max_wait_s=0.05)  # the first guess is 20 ms for each
    decodes, embedding = gate(disc_engine, "_decode_some"), embed()
    first = ask(batcher, embedding, [CLICK] * 3)
    with pytest.raises(QueueFull, match="3 prompts wait"):
        ask(batcher, embedding, [CLICK])
    decodes.let(10)
    assert first.result(PATIENCE_S)
    batcher.finish(time.monotonic() + PATIENCE_S)


def test_finishing_answers_what_was_taken_and_takes_no_more(batcher, decodes, embed):
    futures = [ask(batcher, embed(shade), [CLICK] * 3) for shade in range(3)]
    batcher.stop()
    with pytest.raises(ServiceClosed, match="takes no more work"):
        ask(batcher, embed(), [CLICK])
    decodes.let(100)
    batcher.finish(time.monotonic() + PATIENCE_S)
    assert [len(future.result(0)) for future in futures] == [3, 3, 3]
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith(("decoder", "drawing"))}


def test_what_is_not_answered_by_the_deadline_fails(batcher, decodes, embed):
    running, waiting = ask(batcher, embed(1), [CLICK] * 9), ask(batcher, embed(2), [CLICK])
    decodes.wait_for_call()
    waiting.add_done_callback(lambda _: decodes.let(100))
    batcher.finish(time.monotonic())
    for future in (running, waiting):
        with pytest.raises(ServiceClosed, match="shut down before this was done"):
            future.result(0)


def test_batches_and_stages_are_told(disc_engine, embed):
    metrics = ServeMetrics()
    batcher = PromptBatcher(disc_engine, metrics)
    ask(batcher, embed(), [CLICK] * 6).result(PATIENCE_S)
    batcher.finish(time.monotonic() + PATIENCE_S)
    lines = metrics.render().decode().splitlines()
    assert "mobile_sam_decode_batch_size_sum 6.0" in lines
    assert 'mobile_sam_stage_seconds_count{stage="wait_decode"} 1.0' in lines
    assert 'mobile_sam_stage_seconds_count{stage="draw"} 6.0' in lines
