"""Take the pictures of the page for the README: python scripts/page_screenshots.py [FOLDER].

The page must be built (`make web`). Desktop in light and dark, and a phone, each with masks on it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from page_driver import Visit, launched, running
from PIL import Image
from playwright.sync_api import Browser

from mobile_sam.serve.page_files import open_page
from mobile_sam.serve.page_server import PageServer

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 300_000
DESKTOP: dict[str, Any] = {"viewport": {"width": 1200, "height": 760}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


def mark_astronaut(visit: Visit) -> None:
    """Three objects with names, as the README's other picture has them."""
    visit.open(ROOT / "examples" / "astronaut.png")
    boxes = {"Astronaut": (20, 10, 365, 511), "Shuttle": (350, 2, 465, 290), "Helmet": (270, 340, 508, 511)}
    for number, (name, box) in enumerate(boxes.items(), start=1):
        if number > 1:
            visit.press("#new-object")
        visit.drag_box(*box)
        visit.tab.fill(f"[data-testid=object-{number}] .object-name", name)
        visit.tab.keyboard.press("Enter")


def find_everything(visit: Visit) -> None:
    """Everything on the coffee table."""
    visit.open(ROOT / "examples" / "coffee.png")
    visit.press("#everything")


def click_cat(visit: Visit) -> None:
    """One tap on the cat."""
    visit.open(ROOT / "examples" / "chelsea.png")
    visit.tab.touchscreen.tap(*visit.at(225, 160))
    visit.settle()


def take(browser: Browser, url: str, path: Path, mark: Any, **options: Any) -> None:
    """Open the page, mark something and write what is seen as WebP, as small as it takes."""
    context = browser.new_context(reduced_motion="reduce", **options)
    visit = Visit(context.new_page())
    visit.go(url)
    mark(visit)
    visit.tab.mouse.move(0, 0)
    visit.tab.evaluate("document.activeElement.blur()")
    visit.tab.wait_for_timeout(300)  # whatever still fades
    image = Image.open(io.BytesIO(visit.tab.screenshot()))
    context.close()
    for quality in (90, 80, 70, 50):
        image.save(path, quality=quality, method=6)
        if path.stat().st_size <= MAX_BYTES:
            break
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


def main(folder: Path) -> None:
    """Take all three."""
    server = PageServer(open_page())
    with running(server), launched() as browser:
        take(browser, server.url, folder / "page_light.webp", mark_astronaut, color_scheme="light", **DESKTOP)
        take(browser, server.url, folder / "page_dark.webp", find_everything, color_scheme="dark", **DESKTOP)
        take(browser, server.url, folder / "page_phone.webp", click_cat, color_scheme="light", **PHONE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    main(parser.parse_args().folder)
