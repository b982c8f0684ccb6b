"""Keys can be file names everywhere, and tell different names apart."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sam.bulk.sources.naming import MAX_PART_BYTES, file_name_of, key_of


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b c-d_e.f", "a/b c-d_e.f"),
        ("ünder/日本", "ünder/日本"),
        ("x\udce9", "x%E9"),  # the byte E9, which is no UTF-8 by itself
        ('<>:"|?*\\', "%3C%3E%3A%22%7C%3F%2A%5C"),  # ASCII codes by RFC 3986's table
        ("tab\there\nand\x7f", "tab%09here%0Aand%7F"),
        ("dots. . /space ", "dots%2E%20%2E%20/space%20"),
        ("../../etc/./passwd", "etc/passwd"),
        ("//a//b", "a/b"),
        ("..", "picture"),
        ("100%", "100%"),
        ("a%3Cb", "a%253Cb"),
        ("a%zz", "a%zz"),
        ("CON", "%43ON"),
        ("sub/aux.x/com1", "sub/%61ux.x/%63om1"),
        ("console", "console"),
        ("\ud800", "%ED%A0%80"),  # half of a pair, as Windows allows
    ],
)
def test_keys_hold_what_every_file_system_takes(name, key):
    assert key_of(name) == key


def test_a_file_name_changes_only_where_it_is_no_text_or_leads_out():
    assert file_name_of('a<b>:"|?*\\%41. /c\udcff.jpg') == 'a<b>:"|?*\\%41. /c%FF.jpg'
    assert file_name_of("../x/../y.jpg") == "x/y.jpg"
    assert file_name_of("a./b..jpg") == "a./b..jpg"


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 150, "日" * 90, "<" * 80, "a/" + "y" * 230 + "/b"])
def test_long_parts_are_shortened_to_what_file_systems_take(name):
    key = key_of(name)
    assert all(len(part.encode()) <= MAX_PART_BYTES for part in key.split("/"))
    assert key.count("/") == name.count("/")
    assert key != key_of(name[:-1] + "z")


def test_a_part_of_just_the_length_stays():
    assert key_of("x" * MAX_PART_BYTES) == "x" * MAX_PART_BYTES
    assert key_of("x" * (MAX_PART_BYTES + 1)) != "x" * (MAX_PART_BYTES + 1)


parts = st.text(
    st.one_of(st.sampled_from(string.hexdigits + '%.< \\:"\n'), st.characters(), st.characters(categories=["Cs"])),
    min_size=1,
    max_size=12,
).filter(lambda part: "/" not in part and part not in (".", ".."))


def undone(key):
    """A key's bytes, by the rule of the module's first lines."""
    return re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), key.encode())


@given(st.lists(parts, min_size=1, max_size=3))
def test_every_name_gives_a_safe_key_that_leads_back_to_it(names):
    name = "/".join(names)
    key = key_of(name)
    assert re.search(r'[\x00-\x1f\x7f<>:"|?*\\]|[. ](/|$)|(^|/)(/|$)', key) is None
    try:
        content = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = None  # half pairs and undecoded bytes in one name: no system gives it
    if content is not None:
        assert undone(key) == content
