"""How a run is asked to stop: Ctrl-C once to finish what is in flight, twice to leave at once."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks: Ctrl-C, and what schedulers and service managers send some time before they kill."""

ONE_SIGNAL_S = 0.1
"""Signals that follow sooner are the same one, which `timeout` and others send to the process and to its group."""


class Stop:
    """Whether a run is to stop; any thread may ask."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._urgent = threading.Event()
        self._signalled_s = -math.inf

    @property
    def is_asked(self) -> bool:
        """Whether the run is to stop: nothing new is begun, what is in flight is finished."""
        return self._asked.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether the run is to stop at once, whatever is in flight; what is lost is done again by the next run."""
        return self._urgent.is_set()

    def ask(self) -> None:
        """Ask the run to stop."""
        self._asked.set()

    @contextmanager
    def listening(self, on_ask: Callable[[], None] | None = None) -> Iterator[None]:
        """Take SIGINT and SIGTERM for questions to stop while the context lasts.

        The first asks; the second raises KeyboardInterrupt in the main thread and sets `is_urgent`, for the case that
        the exception is lost, as it is in a finalizer. Signals that were ignored, as a shell does for jobs in the
        background, are taken too. In other threads than the main one, which cannot set handlers, this does nothing.

        Args:
            on_ask: called at the first, such as to say what happens now; it should be quick.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if not self.is_asked:
                self._signalled_s = time.monotonic()
                self.ask()
                if on_ask is not None:
                    on_ask()
            elif time.monotonic() - self._signalled_s > ONE_SIGNAL_S:
                self._urgent.set()
                raise KeyboardInterrupt

        before = {}
        try:
            for number in SIGNALS:
                before[number] = signal.signal(number, handle)
            yield
        finally:
            for number, handler in before.items():
                # None: set by other than Python, which cannot be put back
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
