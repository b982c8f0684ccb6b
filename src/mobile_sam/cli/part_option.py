"""The option that names a part of the work, as in 2/4."""

from __future__ import annotations


def parse_part(text: str, option: str) -> tuple[int, int]:
    """Read which part of how many: "2/4" -> (1, 4).

    Raises:
        ValueError: another form; the message calls it `option`.
    """
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise ValueError(f"{option} must be I/N with I from 1 to N, as in 2/4, got {text!r}")
    return int(number) - 1, int(count)
