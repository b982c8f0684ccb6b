"""Engines whose work is held up until a test lets it go on, so that no test waits for time to pass."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image

PATIENCE_S = 60  # after which a test that waits for another thread fails


class Gate:
    """Stands in front of a method: each call waits until it is let through.

    Attributes:
        calls: arguments of those that have come so far.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._arrivals, self._passes = threading.Semaphore(0), threading.Semaphore(0)
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append(arguments)
        self._arrivals.release()
        assert self._passes.acquire(timeout=PATIENCE_S), "no test let this call through"
        return self._run(*arguments, **options)

    def wait_for_call(self) -> None:
        """Wait until one more call has come."""
        assert self._arrivals.acquire(timeout=PATIENCE_S), "nobody came"

    def let(self, num_calls: int = 1) -> None:
        """Let calls through, also ones that have yet to come."""
        self._passes.release(num_calls)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], Gate]]:
    """Put a gate in front of a method or function of an object; at the test's end all are opened."""
    with ExitStack() as ends:

        def put(owner: Any, method: str) -> Gate:
            made = Gate(getattr(owner, method))
            monkeypatch.setattr(owner, method, made)
            ends.callback(made.let, 10_000)
            return made

        yield put


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Make the file of a picture in one shade of grey; different shades are different pictures."""

    def encoded(shade: int = 0, size_hw: tuple[int, int] = (48, 64)) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full((*size_hw, 3), shade, np.uint8)).save(file, format="PNG")
        return file.getvalue()

    return encoded
