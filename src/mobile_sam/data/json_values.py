"""Values of JSON files that others wrote: read without trust, turned down by name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_sam.data.records import Problem


class ItemRejectedError(ValueError):
    """One item of a file cannot be used; the others can.

    Args:
        kind: as in `Problem`.
        message: what came, what was expected.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def to_problem(self, where: str) -> Problem:
        """Note the item as left out."""
        return Problem(self.kind, where, str(self))


def read_json(path: Path) -> tuple[Any, str]:
    """Read a JSON file of any Unicode encoding, with or without a byte order mark.

    Returns:
        Its content, and the sha256 of its bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, no JSON, or nested too deeply.
    """
    if not path.exists():
        raise FileNotFoundError(f"no annotation file at {path}; check the spelling of the path")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, expected a JSON file inside it")
    text = path.read_bytes()
    return parse_json(text, str(path)), hashlib.sha256(text).hexdigest()


def parse_json(text: bytes, name: str) -> Any:
    """Read the text of a JSON file, which messages call `name`.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name} is no annotation file: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}; was it copied or downloaded to the end?") from error


def to_id(value: Any) -> str | None:
    """Bring an id to text, so that 17, 17.0 and "17" are one; None for what names nothing.

    >>> to_id(17), to_id("17"), to_id(17.0), to_id(None), to_id("")
    ('17', '17', '17', None, None)
    """
    if isinstance(value, str):
        return value or None
    number = to_number(value)
    if number is None or not number.is_integer():
        return None
    return str(int(value))


def to_number(value: Any) -> float | None:
    """Take a finite number; None for text, truth values, NaN, infinity and what is too large for a float.

    >>> to_number(2), to_number("2"), to_number(float("nan")), to_number(10**400)
    (2.0, None, None, None)
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def to_numbers(values: Any, num_values: int) -> tuple[float, ...] | None:
    """Take a list of so many finite numbers; None for everything else.

    >>> to_numbers([1, 2.5], 2), to_numbers([1, None], 2), to_numbers([1, 2, 3], 2)
    ((1.0, 2.5), None, None)
    """
    if not isinstance(values, list) or len(values) != num_values:
        return None
    numbers = tuple(number for value in values if (number := to_number(value)) is not None)
    return numbers if len(numbers) == num_values else None


def to_whole_number(value: Any) -> int | None:
    """Take a whole number, 640.0 being one; None for everything else."""
    number = to_number(value)
    return int(value) if number is not None and number.is_integer() else None


def require_keys(record: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Take a record that is an object and has all of these keys.

    Raises:
        ItemRejectedError: "missing key".
    """
    if not isinstance(record, dict):
        raise ItemRejectedError("missing key", f"expected an object with {', '.join(keys)}, got {shortened(record)}")
    missing = [key for key in keys if record.get(key) is None]
    if missing:
        raise ItemRejectedError("missing key", f"lacks {' and '.join(missing)}; it has {', '.join(record) or 'none'}")
    return record


def shortened(value: Any) -> str:
    """Show a value in a message: at most 60 characters of it."""
    text = repr(value[:20] if isinstance(value, (list, str)) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
