"""The spool: what counts is what the manifest names, whatever killed writers and full disks leave."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mobile_sam.bulk import spool
from mobile_sam.bulk.items import Item, Place, RunStoppedError
from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.spool import SpoolDamagedError, SpoolWriter, read_spooled, remove_unnamed_parts


def masks_of(item_id, num_records=1, key="k"):
    records = [{"segmentation": {"size": [2, 2], "counts": "22"}, "area": 2}] * num_records
    return PictureMasks(item_id, key, f"{key}.jpg", (2, 2), records)


def item(item_id, key="k", source_id=None):
    return Item(item_id, key, f"{key}.jpg", Place(f"/pictures/{key}.jpg"), source_id)


def entry(done, **facts):
    return item(done.item_id, **facts), done.part, done.offset, done.size_bytes


def spooled(folder, *item_ids, prefix="w"):
    """Entries of a part that holds these items."""
    writer = SpoolWriter(folder, prefix)
    entries = [entry(writer.add(masks_of(item_id, item_id % 3))) for item_id in item_ids]
    writer.flush()
    writer.close()
    return entries


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out" / "spool"


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, which fails as a full disk does: those of pytest too, so not for long."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_added_is_read_back_whatever_the_order(folder):
    entries = spooled(folder, 1, 2, 5) + spooled(folder, 3, 4)
    by_id = sorted(entries, key=lambda found: found[0].id)
    assert [(m.item_id, len(m.records)) for m in read_spooled(folder, by_id)] == [
        (1, 1),
        (2, 2),
        (3, 0),
        (4, 1),
        (5, 2),
    ]
    assert [m.item_id for m in read_spooled(folder, reversed(entries))] == [4, 3, 5, 2, 1]
    assert list(read_spooled(folder, [])) == []


def test_an_entry_names_exactly_the_bytes_of_its_line(folder):
    entries = spooled(folder, 1, 2)
    (part,) = folder.iterdir()
    content = part.read_bytes()
    lines = [content[offset : offset + size] for _, _, offset, size in entries]
    assert b"".join(lines) == content
    assert [json.loads(line)["item_id"] for line in lines] == [1, 2]
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)


def test_done_says_how_many_masks_there_are(folder):
    assert SpoolWriter(folder, "w").add(masks_of(7, 5)).num_masks == 5


def test_key_name_and_number_are_those_of_the_manifest(folder):
    writer = SpoolWriter(folder, "w")
    done = writer.add(masks_of(1, key="old"))
    writer.flush()
    (read,) = read_spooled(folder, [entry(done, key="new", source_id=99)])
    assert (read.key, read.file_name, read.source_id, read.size_hw) == ("new", "new.jpg", 99, (2, 2))


def test_a_part_begins_to_exist_with_the_first_line(folder):
    writer = SpoolWriter(folder, "w")
    writer.flush()
    writer.close()
    assert not folder.exists()
    assert len(spooled(folder, 1)) == len(list(folder.iterdir())) == 1


def test_flushed_lines_can_be_read_while_the_writer_goes_on(folder):
    writer = SpoolWriter(folder, "w")
    first = writer.add(masks_of(1))
    writer.flush()
    writer.add(masks_of(2))
    assert [m.item_id for m in read_spooled(folder, [entry(first)])] == [1]


def test_flush_asks_the_disk_and_not_only_the_system(folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = SpoolWriter(folder, "w")
    writer.add(masks_of(1))
    num_before = len(synced)  # the folder's
    writer.flush()
    assert len(synced) == num_before + 1
    writer.flush()  # nothing new
    assert len(synced) == num_before + 1


def test_writers_of_one_prefix_have_parts_of_their_own(folder):
    parts = {spooled(folder, number, prefix="host-1")[0][1] for number in range(1, 20)}
    assert len(parts) == 19
    assert all(part.startswith("host-1-") and part.endswith(".jsonl") for part in parts)


@pytest.mark.parametrize("prefix", ["../up", "a/b\\c", "höst:1", "x" * 500, ""])
def test_any_prefix_makes_a_file_in_the_folder(folder, prefix):
    ((_, part, _, _),) = spooled(folder, 1, prefix=prefix)
    assert [path.name for path in folder.iterdir()] == [part]
    assert part.isascii()


def test_a_part_in_which_nothing_was_flushed_is_removed(folder):
    writer = SpoolWriter(folder, "w")
    writer.add(masks_of(1))
    writer.close()
    writer.close()
    assert list(folder.iterdir()) == []
    with pytest.raises(RunStoppedError, match="closed"):
        writer.add(masks_of(2))


def test_the_cut_off_tail_of_a_killed_writer_is_not_read(folder):
    entries = spooled(folder, 1, 2)
    with open(folder / entries[0][1], "ab") as part:
        part.write(masks_of(3).to_line()[:-9])
    assert [m.item_id for m in read_spooled(folder, entries)] == [1, 2]


def test_a_full_disk_ends_the_writer_and_leaves_what_was_flushed(folder):
    writer = SpoolWriter(folder, "w")
    first = writer.add(masks_of(1))
    writer.flush()
    writer.add(masks_of(2, 20))
    with small_disk(first.size_bytes + 10), pytest.raises(OSError, match=r"\[Errno"):
        writer.flush()
    for call in (writer.flush, lambda: writer.add(masks_of(3))):
        with pytest.raises(RunStoppedError, match="writing has failed before"):
            call()
    writer.close()
    assert [m.item_id for m in read_spooled(folder, [entry(first)])] == [1]


def test_a_disk_that_is_full_from_the_start_leaves_no_part(folder):
    writer = SpoolWriter(folder, "w")
    with small_disk(10), pytest.raises(OSError, match=r"\[Errno"):
        writer.add(masks_of(1, 10_000))  # more than is buffered
    writer.close()
    assert list(folder.iterdir()) == []


def test_a_writer_that_was_interrupted_in_a_line_takes_no_more(folder, monkeypatch):
    writer = SpoolWriter(folder, "w")
    writer.add(masks_of(1))

    class Interrupted:
        def write(self, line):
            raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_file", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        writer.add(masks_of(2))
    with pytest.raises(RunStoppedError):
        writer.add(masks_of(3))


def test_a_missing_part_is_told(folder):
    ((found, part, offset, size),) = spooled(folder, 1)
    with pytest.raises(SpoolDamagedError, match=r"gone\.jsonl .*is missing.*start again in another --out"):
        list(read_spooled(folder, [(found, "gone.jsonl", offset, size)]))
    (folder / part).unlink()
    with pytest.raises(SpoolDamagedError, match=part):
        list(read_spooled(folder, [(found, part, offset, size)]))


def test_a_part_that_was_cut_short_is_told_with_the_item(folder):
    entries = spooled(folder, 1, 2)
    os.truncate(folder / entries[0][1], entries[1][2] + 5)
    reading = read_spooled(folder, entries)
    assert next(reading).item_id == 1
    with pytest.raises(SpoolDamagedError, match=r"ends after 5 of the \d+ bytes .* item 2 \(k\)"):
        next(reading)


def test_a_line_of_another_item_is_told(folder):
    (_, part, _, _), (_, _, offset, size) = spooled(folder, 1, 2)
    with pytest.raises(SpoolDamagedError, match=r"has item 2 .* expected item 1"):
        list(read_spooled(folder, [(item(1), part, offset, size)]))


@pytest.mark.parametrize(("shift", "more"), [(3, 0), (0, -1), (0, 1), (0, -20)])
def test_bytes_that_are_not_one_line_are_told(folder, shift, more):
    (_, part, offset, size), _ = spooled(folder, 1, 2)
    with pytest.raises(SpoolDamagedError, match=part):
        list(read_spooled(folder, [(item(1), part, offset + shift, size + more)]))


def test_many_parts_are_read_with_few_open_files(folder, monkeypatch):
    entries = [found for number in range(1, 31) for found in spooled(folder, number, number + 100)]
    monkeypatch.setattr(spool, "MAX_OPEN_PARTS", 4)
    opened, most_open = [], 0
    make = spool._open_part

    def watched(*arguments):
        nonlocal most_open
        opened.append(make(*arguments))
        most_open = max(most_open, sum(not file.closed for file in opened))
        return opened[-1]

    monkeypatch.setattr(spool, "_open_part", watched)
    by_id = sorted(entries, key=lambda found: found[0].id)
    assert [m.item_id for m in read_spooled(folder, by_id)] == [*range(1, 31), *range(101, 131)]
    assert most_open == 4
    assert all(file.closed for file in opened)


def test_files_are_closed_when_reading_ends_early(folder, monkeypatch):
    opened = []
    make = spool._open_part
    monkeypatch.setattr(spool, "_open_part", lambda *a: opened.append(make(*a)) or opened[-1])
    reading = read_spooled(folder, spooled(folder, 1, 2))
    next(reading)
    reading.close()
    assert [file.closed for file in opened] == [True]


def test_parts_that_no_row_names_are_removed(folder):
    kept, gone = spooled(folder, 1)[0][1], spooled(folder, 2)[0][1]
    (folder / "notes.txt").write_text("mine")
    assert remove_unnamed_parts(folder, {kept, "elsewhere.jsonl"}) == 1
    assert {path.name for path in folder.iterdir()} == {kept, "notes.txt"}
    assert not (folder / gone).exists()
    assert remove_unnamed_parts(folder / "none", set()) == 0
