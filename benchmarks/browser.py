"""The page in Chromium beside the native engine: how long until the first mask, and until each further one.

Both take turns on the same pictures and clicks, each round in a fresh tab and a fresh process; the browser itself and
its cache are warm, as at a second visit. In the page, WebAssembly runs with as many threads as it takes by itself. The
page's times end when the mask is computed at the picture's size, before it is drawn. Stages:

    ready       from going to the page, or starting the process, until the model is ready
    encode      opening the picture: reading the file, resizing, encoding
    first_mask  from going to the page, or starting the process, until the mask of the first click; ready and encode
                and the click are parts of it
    click       a further click with a single point, a new object each time

`ratio` is the page's median divided by the native one's: 2 means that the page takes twice as long.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from against_original import SECONDS_BETWEEN_VARIANTS
from PIL import Image
from playwright.sync_api import BrowserContext
from remote import RemoteWorker
from report import MachineWatch, facts, publish, summarise

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
from page_driver import Visit, launched, running  # noqa: E402

from mobile_sam.serve.page_files import open_page  # noqa: E402
from mobile_sam.serve.page_server import PageServer  # noqa: E402

STAGES = ("ready", "encode", "first_mask", "click")
FIRST_CLICK = (0.5, 0.5)  # x, y as shares of width and height
FURTHER_CLICKS = tuple((0.1 + 0.2 * column, 0.1 + 0.2 * row) for row in range(5) for column in range(4))

Seconds = dict[tuple[str, str], list[float]]  # (variant, stage) -> measurements

# A click as the pointer gives it, and the time until its object has a mask, on the page's own clock.
CLICK_MS = """([x, y]) => new Promise((resolve) => {
    const canvas = document.getElementById("canvas");
    const { x: clientX, y: clientY } = window.mobileSam.clientPoint(x, y);
    const options = { clientX, clientY, pointerId: 1, pointerType: "mouse", button: 0, bubbles: true };
    canvas.setPointerCapture = () => undefined;  // there is no such pointer
    const before = window.mobileSam.state().objects.length;
    const start = performance.now();
    canvas.dispatchEvent(new PointerEvent("pointerdown", options));
    canvas.dispatchEvent(new PointerEvent("pointerup", options));
    const look = () => {  // every 4 ms, which leaves the cores to the model
        const last = window.mobileSam.state().objects[before];
        if (last && last.areaPx !== null) resolve(performance.now() - start);
        else setTimeout(look);
    };
    look();
})"""


def points_of(picture: Path, shares: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Clicks in pixels of a picture."""
    with Image.open(picture) as image:
        width, height = image.size
    return [(share_x * width, share_y * height) for share_x, share_y in shares]


def measure_page(context: BrowserContext, url: str, picture: Path, seconds: Seconds) -> str:
    """One round in a fresh tab; returns what the page says of its runtime."""
    tab = context.new_page()
    visit = Visit(tab)
    start = time.perf_counter()
    visit.go(url)
    ready = time.perf_counter()
    visit.open(picture)
    encoded = time.perf_counter()
    tab.evaluate(CLICK_MS, points_of(picture, [FIRST_CLICK])[0])
    first_mask = time.perf_counter()
    runtime: str = visit.state()["runtime"]["text"]
    seconds["page", "ready"].append(ready - start)
    seconds["page", "encode"].append(encoded - ready)
    seconds["page", "first_mask"].append(first_mask - start)
    for point in points_of(picture, FURTHER_CLICKS):
        visit.settle()  # the other candidates of the click before, which are computed when it is answered
        tab.press("#canvas", "n")
        seconds["page", "click"].append(tab.evaluate(CLICK_MS, point) / 1000)
    tab.close()
    return runtime


def measure_native(engine: str, picture: Path, seconds: Seconds) -> None:
    """One round in a fresh process."""
    with RemoteWorker(engine, sys.executable) as worker:
        worker.ask("load")
        ready = worker.seconds_since_start()
        worker.ask("encode", picture=str(picture))
        encoded = worker.seconds_since_start()
        x, y = points_of(picture, [FIRST_CLICK])[0]
        worker.ask("click", x=x, y=y)
        seconds["native", "first_mask"].append(worker.seconds_since_start())
        seconds["native", "ready"].append(ready)
        seconds["native", "encode"].append(encoded - ready)
        for x, y in points_of(picture, FURTHER_CLICKS):
            seconds["native", "click"].append(worker.ask("click", x=x, y=y)["seconds"])


def tabulate(seconds: Seconds) -> list[dict[str, Any]]:
    """One row for each stage and variant."""
    rows = []
    for stage in STAGES:
        native_s = summarise(seconds["native", stage]).median
        for variant in ("native", "page"):
            values = seconds[variant, stage]
            summary = summarise(values)
            p90_s = statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]
            row: dict[str, Any] = {"stage": stage, "variant": variant, "median_s": summary.median}
            row |= {"iqr_s": summary.iqr, "p90_s": p90_s, "n": summary.n, "ratio": summary.median / native_s}
            rows.append(row)
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", type=Path, default=[ROOT / "examples" / "astronaut.png"])
    parser.add_argument("--engine", default="onnxruntime", help="native; default: the plain installation's")
    parser.add_argument("--where", default="wasm", choices=["wasm", "webgpu"], help="what the page runs on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="browser", help="writes results/NAME.csv")
    given = parser.parse_args()
    header, watch = facts(), MachineWatch()
    seconds: Seconds = defaultdict(list)
    server = PageServer(open_page())
    with running(server), launched() as browser:
        url = f"{server.url}?where={given.where}"
        header |= {"browser": f"Chromium {browser.version}", "native engine": given.engine}
        context = browser.new_context()
        Visit(context.new_page()).go(url)  # fills the cache
        for round_index in range(given.rounds):
            print(f"round {round_index + 1} of {given.rounds}", file=sys.stderr)
            for picture in given.pictures:
                for variant in ("page", "native") if round_index % 2 else ("native", "page"):
                    time.sleep(SECONDS_BETWEEN_VARIANTS)
                    if variant == "page":
                        header["page"] = measure_page(context, url, picture, seconds)
                    else:
                        measure_native(given.engine, picture, seconds)
    header["wall"] = watch.facts()["wall"]  # what other processes took is not known: the browser's count as others
    publish(given.name, tabulate(seconds), header)


if __name__ == "__main__":
    main()
