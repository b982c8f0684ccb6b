"""Drives the page in Chromium as a visitor would; the tests, the benchmark and the screenshots share it.

It needs Playwright (`pip install playwright`) and a Chromium or Chrome on the PATH, Playwright's own is not used.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

from mobile_sam.core.rle import decode_rle

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY_MS = 60_000  # to load and prepare the model, with nothing in the cache, on a busy machine

Button = Literal["left", "middle", "right"]
Modifier = Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the browser, without a window; it ends with the block.

    Raises:
        FileNotFoundError: there is none.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"none of {', '.join(BROWSERS)} is installed: run `make browser`")
    options = ["--disable-dev-shm-usage"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # which Chromium does not have for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve from a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    with server:
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Visit:
    """The page in one tab, and what a visitor does there. Coordinates are x, y in pixels of the opened picture."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab

    def go(self, url: str) -> None:
        """Go to the page and wait until its model is ready."""
        self.tab.goto(url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the model is ready, on a page that may load itself anew once to become isolated."""
        self._wait_for("window.mobileSam?.state().isModelReady")

    def open(self, picture: str | Path) -> None:
        """Open a picture file and wait until it is encoded."""
        self._ask_for_encoding()
        self.tab.set_input_files("#file", picture)
        self.wait_until_encoded(Path(picture).name)

    def open_by_chooser(self, picture: str | Path, key: str) -> None:
        """Open a picture file with the file chooser that a key brings up, and wait until it is encoded."""
        with self.tab.expect_file_chooser() as chooser:
            # The browser's process takes "catch file choosers" and the key at once, and sends them to the page by
            # two ways: the key may be the first to arrive. An answer of the page proves that the other is there.
            self.tab.evaluate("0")
            self.tab.keyboard.press(key)
        self._ask_for_encoding()
        chooser.value.set_files(picture)
        self.wait_until_encoded(Path(picture).name)

    def wait_until_encoded(self, file_name: str) -> None:
        """Wait until a picture of that name is encoded."""
        is_open = f"window.mobileSam.state().picture?.name === {file_name!r}"
        self._wait_for(f"{is_open} && document.documentElement.dataset.model === 'encoded'")

    def start_over(self) -> None:
        """Delete everything that is marked, as the buttons do, and show the whole picture."""
        self.tab.keyboard.press("Escape")
        self.settle()
        for button in ("#found-delete", "#objects [aria-label^=Delete]", "#message-close"):
            while self.tab.locator(button).first.is_visible():
                self.tab.locator(button).first.click()
        self.tab.click("#zoom-fit")
        self.tab.click("#tool-foreground")

    def settle(self) -> None:
        """Wait until no mask is being computed."""
        self._wait_for("window.mobileSam.state().isEncoded && !window.mobileSam.state().isBusy")

    def state(self) -> dict[str, Any]:
        """What the page says of itself, see web/src/ui/hook.ts."""
        state: dict[str, Any] = self.tab.evaluate("window.mobileSam.state()")
        return state

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where in the window a point of the picture is, in CSS px."""
        point = self.tab.evaluate("([x, y]) => window.mobileSam.clientPoint(x, y)", [x, y])
        return point["x"], point["y"]

    def click(self, x: float, y: float, button: Button = "left", modifiers: Sequence[Modifier] = ()) -> None:
        """Click and wait for the mask."""
        for key in modifiers:
            self.tab.keyboard.down(key)
        self.tab.mouse.click(*self.at(x, y), button=button)
        for key in modifiers:
            self.tab.keyboard.up(key)
        self.settle()

    def drag_box(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Drag a box and wait for the mask."""
        self.tab.mouse.move(*self.at(x1, y1))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.at((x1 + x2) / 2, (y1 + y2) / 2))
        self.tab.mouse.move(*self.at(x2, y2))
        self.tab.mouse.up()
        self.settle()

    def press(self, selector: str) -> None:
        """Press a button and wait for what comes of it."""
        self.tab.click(selector)
        self.settle()

    def mask(self) -> NDArray[np.bool_]:
        """The selected object's mask: (H, W) bool."""
        rle = self.tab.evaluate("window.mobileSam.currentMask()")
        return decode_rle({"size": [rle["height"], rle["width"]], "counts": rle["counts"]})

    def _ask_for_encoding(self) -> None:
        # The page sets this anew with each change; until then it is not taken for that of the picture before.
        self.tab.evaluate("document.documentElement.dataset.model = 'asked'")

    def _wait_for(self, condition: str) -> None:
        self.tab.wait_for_function(f"() => {condition}", timeout=READY_MS, polling=20)
