"""The journal: whatever a kill leaves of it, finished pictures stay finished."""

import json
import math
import sys

import pytest

from mobile_sam.evaluate.journal import FORMAT, Journal
from mobile_sam.evaluate.measurements import Measurement

RUN = {"kind": "prompts", "protocols": [{"name": "box", "report_steps": (1, 2), "seed": 0}], "dataset": {"num": 3}}
ENTRIES = {
    "1": {"rows": [["17", "box", 0.5, None]], "left_out": {}},
    "2": {"failed": "2.png is damaged", "left_out": {}},
    "Ü/3 \n.png": {"rows": [], "left_out": {"crowd mask": 2}},
}


def write(path, run=RUN, entries=ENTRIES):
    with Journal(path, run) as journal:
        for name, entry in entries.items():
            journal.append(name, entry)
    return path


def entries_of(path, run=RUN):
    with Journal(path, run) as journal:
        return journal.entries


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "measurements.jsonl"


def test_a_new_journal_is_empty_and_makes_its_folder(path):
    with Journal(path, RUN) as journal:
        assert journal.entries == {}
        assert not journal.is_done("1")
    header = json.loads(path.read_text())
    assert header == {"format": FORMAT, "run": json.loads(json.dumps(RUN))}


def test_entries_come_back_as_they_were(path):
    assert entries_of(write(path)) == ENTRIES
    assert list(entries_of(path)) == list(ENTRIES)  # in order


def test_each_entry_is_on_disk_when_append_returns(path):
    with Journal(path, RUN) as journal:
        for number, (name, entry) in enumerate(ENTRIES.items(), start=1):
            journal.append(name, entry)
            lines = path.read_bytes().splitlines()
            assert len(lines) == 1 + number
            assert json.loads(lines[-1]) == {"picture": name, **entry}


def test_finished_pictures_are_done_and_failed_ones_are_tried_again(path):
    with Journal(write(path), RUN) as journal:
        assert [journal.is_done(name) for name in (*ENTRIES, "4")] == [True, False, True, False]
        journal.append("2", {"rows": [], "left_out": {}})
        assert journal.is_done("2")
    assert entries_of(path) == {**ENTRIES, "2": {"rows": [], "left_out": {}}}


def test_a_journal_cut_at_any_byte_loses_only_what_was_cut(path):
    whole = write(path).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]  # of the header and of each entry
    names = list(ENTRIES)
    assert len(ends) == 4
    for size in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = names[: sum(end <= size for end in ends) - 1]
        with Journal(path, RUN) as journal:
            assert list(journal.entries) == kept, size
            journal.append("4", {"rows": [size]})
        found = entries_of(path)
        assert found == {**{name: ENTRIES[name] for name in kept}, "4": {"rows": [size]}}, size
        assert [json.loads(line)["picture"] for line in path.read_text().splitlines()[1:]] == [*kept, "4"]


@pytest.mark.parametrize(
    "rest", [b"\0" * 64, b"\0\0\n", b"\xff\xfe\n", b"[1]\n", b'{"rows":[]}\n', b"[" * 5000 + b"\n"]
)
def test_what_stands_in_place_of_a_line_is_dropped(path, rest):
    whole = write(path).read_bytes()
    path.write_bytes(whole + rest)
    assert entries_of(path) == ENTRIES
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"iou,name\n0.5,a\n",
        b'{"format": "other", "run": {}}\n',
        b'{"run": {}}\n',
        json.dumps({"format": FORMAT}).encode() + b"\n",
        json.dumps({"format": FORMAT, "run": [1]}).encode() + b"\n",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"[" * 5000 + b"\n",
        json.dumps({"format": FORMAT, "run": RUN}).encode(),  # the first line without its end
    ],
)
def test_what_is_no_journal_is_refused_and_left_as_it_was(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"measurements.jsonl is not a journal of an evaluation; name another folder"):
        Journal(path, RUN)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "agreement"}, "kind was prompts, is agreement; name"),
        ({"dataset": {"num": 4}}, "dataset.num was 3, is 4; name"),
        ({"dataset": None}, r'dataset was {"num": 3}, is null; name'),
        ({"protocols": [{**RUN["protocols"][0], "seed": 1}]}, r"protocols\[0\].seed was 0, is 1; name"),
        (
            {"protocols": [{**RUN["protocols"][0], "report_steps": (1, 3)}]},
            r"protocols\[0\].report_steps\[1\] was 2, is 3; name",
        ),
        (
            {"protocols": [*RUN["protocols"], {"name": "centre"}]},
            r'protocols was 1 \["box"\], is 2 \["box", "centre"\]; name',
        ),
        ({"models": [{"name": "torch"}]}, r'models was null, is 1 \["torch"\]; name'),
        ({"kind": "x" * 500}, r"kind was prompts, is x{117}\.\.\.; name"),
        ({"kind": "boxes", "dataset": {"num": 4}}, r"kind was prompts, is boxes; dataset.num was 3, is 4; name"),
    ],
)
def test_another_run_is_refused_naming_what_differs(path, changed, message):
    before = write(path).read_bytes()
    with pytest.raises(ValueError, match=rf"run holds another run: {message} another folder, or begin anew"):
        Journal(path, {**RUN, **changed})
    assert path.read_bytes() == before


def test_a_choice_that_is_gone_is_named_too(path):
    write(path, {**RUN, "old": 1})
    with pytest.raises(ValueError, match=r"another run: old was 1, is null"):
        Journal(path, RUN)


def test_many_differences_are_counted(path):
    write(path, {str(number): 0 for number in range(8)})
    with pytest.raises(ValueError, match=r"4 was 0, is 1; and 3 more differences; name"):
        Journal(path, {str(number): 1 for number in range(8)})


def test_a_run_can_begin_anew_over_any_file(path):
    write(path)
    with Journal(path, {"kind": "boxes"}, restarts=True) as journal:
        assert journal.entries == {}
        journal.append("9", {"rows": []})
    assert entries_of(path, {"kind": "boxes"}) == {"9": {"rows": []}}


def test_lists_and_tuples_describe_the_same_run(path):
    write(path)
    assert entries_of(path, json.loads(json.dumps(RUN))) == ENTRIES


def test_measurements_with_numbers_that_are_missing_come_back(path):
    measurement = Measurement("1", "17", "box", "file", 1, 0.25, math.nan, -1, 12.0, "small")
    write(path, entries={"1": {"rows": [measurement.to_row()]}})
    assert b"NaN" not in path.read_bytes()  # which is no JSON
    (row,) = entries_of(path)["1"]["rows"]
    found = Measurement.from_row("1", row)
    assert math.isnan(found.predicted_iou)
    assert (found.iou, found.mask_token, found.area_bin) == (0.25, -1, "small")


def test_a_journal_ends_with_its_block_even_if_the_block_fails(path):
    def fail():
        with Journal(path, RUN) as journal:
            journal.append("1", ENTRIES["1"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert entries_of(path) == {"1": ENTRIES["1"]}


@pytest.mark.skipif(sys.platform == "win32", reason="journals are not locked there")
def test_two_runs_at_once_in_one_folder_are_refused(path):
    with Journal(path, RUN) as journal:
        journal.append("1", {"rows": []})
        for restarts in (False, True):
            with pytest.raises(ValueError, match="another process is running in"):
                Journal(path, RUN, restarts=restarts)
        journal.append("2", {"rows": []})
    with Journal(path, RUN) as journal:
        assert list(journal.entries) == ["1", "2"]
