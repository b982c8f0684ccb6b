import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mobile_sam.bulk.items import Batch, Done, Failed, Item, Listed, Place, Report
from mobile_sam.bulk.manifest import Counts, Manifest

SETTINGS = {"task": "everything"}


def picture(key: str, identity: str | None = None) -> Listed:
    path = f"/pictures/{key}.jpg"
    return Listed(key, f"{key}.jpg", Place(path), identity or path)


def report(*done: int, failed: tuple[int, ...] = (), part: str = "") -> Report:
    return Report(
        0,
        tuple(Done(item_id, 2, part, 100 * item_id, 100) for item_id in done),
        tuple(Failed(item_id, "unreadable picture", f"no picture: {item_id}") for item_id in failed),
    )


def ids(batches: Iterator[Batch]) -> dict[int, list[int]]:
    return {batch.number: [item.id for item in batch.items] for batch in batches}


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest.open(tmp_path / "manifest.sqlite", SETTINGS) as opened:
        yield opened


@pytest.fixture
def ten(manifest: Manifest) -> Manifest:
    """A manifest with ten items."""
    manifest.list_items(picture(f"{number:02d}") for number in range(1, 11))
    return manifest


def reopened(manifest: Manifest) -> Manifest:
    manifest.close()
    return Manifest.open(manifest.path, SETTINGS)


@pytest.mark.parametrize(
    "listed",
    [
        Listed("a/b", "a/b.jpg", Place("/pictures/a/b.jpg"), "1"),
        Listed("b", "other name.png", Place("/pictures/a.jpg"), "1"),
        Listed("b", "b.jpg", Place("/shards/0.tar", 1536, 70_000), "1"),
        Listed("b", "b.jpg", Place("s3://bucket/träume/b.jpg?x=1"), "1", 17),
        Listed("b", "b", Place("b"), "1", 0),
        Listed("b", "b.jpg", Place("b.jpg"), "1", 2**64),
        Listed("日本/\U0001f408", "日本/\U0001f408.jpg", Place("/日本/\U0001f408.jpg"), "1", -(2**63)),
        Listed("new\nline", "new\nline.jpg", Place("/new\nline.jpg"), "1"),
    ],
)
def test_an_item_comes_back_as_it_was_listed(manifest: Manifest, listed: Listed) -> None:
    manifest.list_items([listed])
    with reopened(manifest) as again:
        assert list(again.items()) == [Item(1, listed.key, listed.file_name, listed.place, listed.source_id)]


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_paths_that_are_no_utf8_come_back_byte_for_byte(manifest: Manifest) -> None:
    names = [b"/p/\xff.jpg", b"/\xc3/caf\xe9.jpg", b"/\xc3/x.jpg", "/p/café.jpg".encode()]
    places = [Place(os.fsdecode(name)) for name in names]
    manifest.list_items(Listed(f"{i}", "x.jpg", place, place.path) for i, place in enumerate(places))
    with reopened(manifest) as again:
        assert [os.fsencode(item.place.path) for item in again.items()] == names


def test_a_repeated_picture_is_left_out_and_counted(manifest: Manifest) -> None:
    listed = [picture("a"), picture("b", "/pictures/a.jpg"), picture("c"), picture("d", "/pictures/c.jpg")]
    summary = manifest.list_items(listed)
    assert (summary.num_items, summary.num_repeated, summary.repeated) == (2, 2, ("b.jpg", "d.jpg"))
    assert [(item.id, item.key) for item in manifest.items()] == [(1, "a"), (2, "c")]


def test_of_very_many_repeated_pictures_the_first_ten_are_named(manifest: Manifest) -> None:
    summary = manifest.list_items(picture(f"{i}", "same") for i in range(2500))
    assert (summary.num_items, summary.num_repeated) == (1, 2499)
    assert summary.repeated == tuple(f"{i}.jpg" for i in range(1, 11))


def test_listing_nothing_leaves_the_run_unlisted(manifest: Manifest) -> None:
    assert manifest.list_items([]).num_items == 0
    assert not manifest.is_listed
    assert manifest.list_items([picture("a")]).num_items == 1
    assert manifest.is_listed


def test_an_error_while_listing_leaves_nothing(manifest: Manifest) -> None:
    def breaks() -> Iterator[Listed]:
        yield from (picture(f"{i}") for i in range(3000))
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="the folder is gone"):
        manifest.list_items(breaks())
    assert not manifest.is_listed
    assert list(manifest.items()) == []
    assert manifest.list_items([picture("a")]).num_items == 1


def test_items_begin_after_an_id_and_come_in_order_over_pages(manifest: Manifest) -> None:
    manifest.list_items(picture(f"{i}") for i in range(1300))
    assert [item.id for item in manifest.items()] == list(range(1, 1301))
    assert [item.id for item in manifest.items(after_id=1298)] == [1299, 1300]


def test_batches_are_fixed_ranges_of_ids_without_what_is_done_or_failed(ten: Manifest) -> None:
    ten.commit([report(1, 5, 6, 7, 8, failed=(3,))])
    assert ids(ten.pending_batches(4)) == {0: [2, 4], 2: [9, 10]}
    assert ten.counts() == Counts(num_items=10, num_done=5, num_failed=1)
    assert ten.counts().num_pending == 4


@pytest.mark.parametrize("batch_size", [1, 7, 512, 5000])
def test_batches_hold_each_item_once_whatever_their_size(manifest: Manifest, batch_size: int) -> None:
    manifest.list_items(picture(f"{i}") for i in range(1300))
    batches = list(manifest.pending_batches(batch_size))
    assert [item.id for batch in batches for item in batch.items] == list(range(1, 1301))
    assert [batch.number for batch in batches] == list(range(-(-1300 // batch_size)))
    assert all((item.id - 1) // batch_size == batch.number for batch in batches for item in batch.items)


def test_a_batch_needs_a_size(ten: Manifest) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        next(ten.pending_batches(0))


def test_batches_may_be_taken_while_reports_are_committed(manifest: Manifest) -> None:
    manifest.list_items(picture(f"{i}") for i in range(2000))
    seen, last = [], 0
    for batch in manifest.pending_batches(10):
        seen += [item.id for item in batch.items]
        if batch.number % 3 == 0:  # late, and of several batches
            manifest.commit([report(*range(last + 1, seen[-1] + 1))])
            last = seen[-1]
    assert seen == list(range(1, 2001))
    assert manifest.counts().num_done == last
    assert last == 1000 + 991 - 1  # batch 198 ends with item 1990


def test_what_is_done_before_its_page_is_read_does_not_come(manifest: Manifest) -> None:
    manifest.list_items(picture(f"{i}") for i in range(2000))
    batches = manifest.pending_batches(10)
    next(batches)
    manifest.commit([report(*range(1001, 2001))])
    assert max(item.id for batch in batches for item in batch.items) == 1000


def test_the_same_report_again_changes_nothing(ten: Manifest) -> None:
    same = report(1, 2, failed=(3,), part="a.jsonl")
    ten.commit([same, same])
    before = (ten.counts(), list(ten.spooled()), list(ten.failures()))
    ten.commit([same])
    assert (ten.counts(), list(ten.spooled()), list(ten.failures())) == before
    assert before[0] == Counts(10, 2, 1)


def test_a_result_counts_more_than_a_failure_in_any_order(ten: Manifest) -> None:
    ten.commit([report(failed=(1, 2))])
    ten.commit([report(1, part="a.jsonl")])
    ten.commit([report(3, part="a.jsonl")])
    ten.commit([report(failed=(3,))])
    ten.commit([report(failed=(4,)), report(4, part="a.jsonl")])
    assert ten.counts() == Counts(10, 3, 1)
    assert [item.id for item, _, _ in ten.failures()] == [2]
    with reopened(ten) as again:  # counted anew
        assert again.counts() == Counts(10, 3, 1)


def test_of_two_results_the_first_counts_and_the_part_of_the_other_is_unused(ten: Manifest) -> None:
    ten.commit([report(1, 2, part="first.jsonl")])
    ten.commit([report(2, part="second.jsonl")])
    assert [(item.id, part, offset, size) for item, part, offset, size in ten.spooled()] == [
        (1, "first.jsonl", 100, 100),
        (2, "first.jsonl", 200, 100),
    ]
    assert ten.spool_parts() == {"first.jsonl"}


def test_spooled_lines_come_in_the_order_of_ids_without_those_that_have_none(manifest: Manifest) -> None:
    manifest.list_items(picture(f"{i}") for i in range(1500))
    for item_id in (1500, 3, 700, 1):
        manifest.commit([report(item_id, part=f"{item_id % 2}.jsonl")])
    manifest.commit([report(2)])
    found = [(item.id, item.key, part, offset) for item, part, offset, _ in manifest.spooled()]
    assert found == [
        (1, "0", "1.jsonl", 100),
        (3, "2", "1.jsonl", 300),
        (700, "699", "0.jsonl", 70_000),
        (1500, "1499", "0.jsonl", 150_000),
    ]
    assert manifest.spool_parts() == {"0.jsonl", "1.jsonl"}


@pytest.mark.parametrize("item_id", [0, 11, -1])
def test_a_report_of_an_item_that_is_not_there_is_refused_as_a_whole(ten: Manifest, item_id: int) -> None:
    with pytest.raises(ValueError, match=f"item {item_id}, .* 1 to 10"):
        ten.commit([report(1), report(failed=(item_id,))])
    assert ten.counts().num_pending == 10


def test_failures_are_listed_with_their_reasons_and_counted_by_kind(ten: Manifest) -> None:
    ten.commit([Report(0, failed=(Failed(9, "too large", "9"), Failed(2, "empty", "2"), Failed(4, "too large", "4")))])
    assert [(item.id, item.key, kind, reason) for item, kind, reason in ten.failures()] == [
        (2, "02", "empty", "2"),
        (4, "04", "too large", "4"),
        (9, "09", "too large", "9"),
    ]
    assert list(ten.count_failures().items()) == [("too large", 2), ("empty", 1)]


def test_a_reason_may_name_a_file_that_is_no_unicode(ten: Manifest) -> None:
    ten.commit([Report(0, failed=(Failed(1, "unreadable picture", "cannot read /p/\udcff.jpg"),))])
    assert next(ten.failures())[2] == r"cannot read /p/\udcff.jpg"


def test_failures_can_be_tried_again(ten: Manifest) -> None:
    ten.commit([report(1, failed=(2, 3))])
    assert ten.retry_failed() == 2
    assert ten.retry_failed() == 0
    assert ten.counts() == Counts(10, 1, 0)
    assert ids(ten.pending_batches(4)) == {0: [2, 3, 4], 1: [5, 6, 7, 8], 2: [9, 10]}


def test_batches_carry_the_prompts_of_their_items(ten: Manifest) -> None:
    assert not ten.has_prompts
    ten.add_prompts((item.id, f"[{item.id}]") for item in ten.items() if item.id != 2)  # read while it is written
    assert ten.has_prompts
    with reopened(ten) as again:
        assert again.has_prompts
        (batch,) = again.pending_batches(10)
    assert [item.prompts for item in batch.items] == ["[1]", None, *(f"[{i}]" for i in range(3, 11))]
    assert replace(batch.items[0], prompts=None) == Item(1, "01", "01.jpg", Place("/pictures/01.jpg"))


def test_an_error_among_prompts_leaves_none(ten: Manifest) -> None:
    def breaks() -> Iterator[tuple[int, str]]:
        yield 1, "[]"
        raise ValueError("no box")

    with pytest.raises(ValueError, match="no box"):
        ten.add_prompts(breaks())
    assert not ten.has_prompts
    assert all(item.prompts is None for batch in ten.pending_batches(10) for item in batch.items)


def test_runs_are_noted_in_their_order(manifest: Manifest) -> None:
    manifest.note_run({"engine": "onnxruntime", "started": 1})
    with reopened(manifest) as again:
        again.note_run({"engine": "openvino"})
        assert again.runs() == [{"engine": "onnxruntime", "started": 1}, {"engine": "openvino"}]


def test_closing_again_does_nothing_and_leaves_one_file_to_read(ten: Manifest) -> None:
    ten.commit([report(1)])
    ten.close()
    ten.close()
    assert sorted(path.name for path in ten.path.parent.iterdir()) == ["manifest.sqlite", "manifest.sqlite.lock"]
    found = sqlite3.connect(ten.path)
    assert found.execute("SELECT COUNT(*) FROM items").fetchone() == (10,)
    found.close()


def test_a_million_items_would_take_less_than_150_bytes_each(manifest: Manifest) -> None:
    manifest.list_items(picture(f"session_{i // 1000:05d}/camera_{i % 7}/IMG_{i:08d}") for i in range(20_000))
    for batch in manifest.pending_batches(1000):
        manifest.commit([report(*(item.id for item in batch.items), part="worker-0.jsonl")])
    manifest.close()
    assert manifest.path.stat().st_size < 150 * 20_000


def test_listing_again_adds_what_is_new_and_leaves_the_rest_alone(ten):
    ten.commit([report(1, 2, failed=(3,))])
    more = [picture("10"), picture("05"), picture("new"), Listed("04", "04.png", Place("/pictures/04.png"), "4")]
    summary = ten.list_items([picture("other"), *more, picture("new")])
    assert (summary.num_items, summary.num_repeated, summary.renamed) == (13, 3, (("04.png", "04~2"),))
    assert [item.key for item in ten.items()][9:] == ["10", "other", "new", "04~2"]
    assert ten.counts() == Counts(13, 2, 1)
    assert ids(ten.pending_batches(100)) == {0: [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}
    ten = reopened(ten)
    assert ten.counts() == Counts(13, 2, 1)
    ten.close()
