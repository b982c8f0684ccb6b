"""Trying again what a network did not do."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TypeVar

WAITS_S = (0.5, 2.0)
"""Between three tries, in seconds."""

Result = TypeVar("Result")


def retried(action: Callable[[], Result]) -> Result:
    """Do something, and again after each wait while it fails with an error that may pass.

    Raises:
        FileNotFoundError, PermissionError: at once, as time changes nothing about them.
        OSError: of the last try.
    """
    for wait_s in WAITS_S:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            sleep(wait_s)
    return action()
