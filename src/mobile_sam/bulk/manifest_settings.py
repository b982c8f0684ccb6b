"""What differs between the settings of a run and those it is to go on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobile_sam.data.json_values import shortened

_CHANGED_CONTENT = {"model.sha256": "the model has changed", "prompts_sha256": "the file with the prompts has changed"}
_ABSENT = object()


class ChangedSettingsError(ValueError):
    """A run was begun with other settings."""


def check_settings(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run goes on with the settings it was begun with.

    Args:
        path: of the manifest, for the message.
        was: as they were stored, in what JSON has.
        now: as they are, in what JSON takes; tuples are the same as lists.

    Raises:
        ChangedSettingsError: they differ; lists each difference.
    """
    found = [_describe(*difference) for difference in differences(was, json.loads(json.dumps(now)))]
    if found:
        raise ChangedSettingsError(
            f"{path} is of a run with other settings: {'; '.join(found)}. Name another --out, or go back to the "
            "settings of that run"
        )


def differences(was: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Find what differs, by its name with dots, in the order of `was`.

    >>> list(differences({"task": "embed", "config": {"iou": 0.5}}, {"task": "embed", "config": {"iou": 0.7}}))
    [('config.iou', 0.5, 0.7)]
    """
    for key in dict.fromkeys((*was, *now)):
        name, old, new = f"{above}{key}", was.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        elif old != new:
            yield name, old, new


def _describe(name: str, old: Any, new: Any) -> str:
    if old is _ABSENT:
        return f"{name} was not set, is {shortened(new)}"
    if new is _ABSENT:
        return f"{name} was {shortened(old)}, is not set"
    if name.endswith("sha256"):
        return _CHANGED_CONTENT.get(name, f"what {name} stands for has changed")
    return f"{name} was {shortened(old)}, is {shortened(new)}"
