"""The page as a folder of files, which any web host can serve as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from mobile_sam.core.files import atomic_folder
from mobile_sam.serve.page_files import CACHE_FOR_EVER, HASHED, HEADERS, Page

HEADERS_FILE = "_headers"
"""Where Netlify, Cloudflare Pages and others look for the headers they shall send."""

NO_JEKYLL = ".nojekyll"
"""Tells GitHub Pages to publish the files as they are, those too whose names begin with an underscore."""


def write_static_site(page: Page, folder: Path) -> dict[str, int]:
    """Write all files of the page to a new or empty folder; it appears whole or not at all.

    Args:
        page: what is written.
        folder: where; the folders above are made.

    Returns:
        Sizes in bytes, by kind, as `Page.size_bytes`.

    Raises:
        ValueError: the folder has something in it, or is a file.
        OSError: it cannot be written.
    """
    target = folder.resolve()
    is_there = target.exists()
    if is_there and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one, or empty it first")
    with atomic_folder(target, replaces=is_there) as temporary:
        for url, file in page.files.items():
            copy = temporary / url
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, copy)
        (temporary / HEADERS_FILE).write_text(headers_text(), encoding="utf-8")
        (temporary / NO_JEKYLL).write_text("", encoding="utf-8")
    return page.size_bytes()


def headers_text() -> str:
    """Return the rules for a host that reads a `_headers` file."""
    everywhere = [f"  {name}: {value}" for name, value in HEADERS.items()]
    return "\n".join(["/*", *everywhere, f"/{HASHED}*", f"  Cache-Control: {CACHE_FOR_EVER}", ""])
