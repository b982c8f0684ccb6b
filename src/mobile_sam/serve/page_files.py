"""Which files the page in the browser consists of, and the headers that a web server sends with them.

The page is what `make web` builds into `mobile_sam/serve/page`, and below `models/` the bundled weights and graphs,
which the package has anyway. All its URLs are relative, so that it works below any path of any host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobile_sam.core.weights import BUNDLED, DECODER_GRAPH, ENCODER_GRAPH, bundled_folder

INDEX = "index.html"
MODELS = "models"
"""The folder of the page's URLs below which the weights and graphs are."""

MODEL_FILES = (ENCODER_GRAPH, DECODER_GRAPH, BUNDLED.file_name)

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
"""By suffix. Python's `mimetypes` asks the system, which may take .js for text/plain, and then no script would run."""

OTHER_CONTENT_TYPE = "application/octet-stream"  # of weights and graphs

HASHED = "assets/"  # the bundler names these files by their content
CACHE_FOR_EVER = "public, max-age=31536000, immutable"
CACHE_BUT_ASK = "no-cache"  # keep it, but ask each time whether it has changed

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        # a page never asks another host by itself; a visitor may name a server of their own
        "connect-src 'self' blob: data: https: http://127.0.0.1:* http://localhost:*",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS: Mapping[str, str] = {
    # the first two isolate the page from others, without which browsers give WebAssembly one thread only
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self)",
}
"""What every answer with a file of the page carries."""


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    url_path: str  # relative to the page, such as "assets/main-1a2b3c.js"
    path: Path

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""
        return CONTENT_TYPES.get(PurePosixPath(self.url_path).suffix.lower(), OTHER_CONTENT_TYPE)

    @property
    def cache_control(self) -> str:
        """The value of Cache-Control."""
        return CACHE_FOR_EVER if self.url_path.startswith(HASHED) else CACHE_BUT_ASK

    def etag(self, status: os.stat_result) -> str:
        """The value of ETag, of the file that `status` describes: it changes when the file is written anew."""
        return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


class Page:
    """The files of the page by their URL path.

    They are listed once. What is not in the list does not exist, whatever a URL looks like, so that no path can lead
    out of the folders; neither can a link, since links out of them are not listed.
    """

    def __init__(self, built_folder: Path, models_folder: Path) -> None:
        """List the files.

        Args:
            built_folder: what `npm run build` wrote.
            models_folder: has the weights and the two graphs.

        Raises:
            FileNotFoundError: the page was not built, or a file of the model is not there.
        """
        if not (built_folder / INDEX).is_file():
            raise FileNotFoundError(
                f"the page in the browser is not built: there is no {built_folder / INDEX}; in a clone run `make web` "
                "and install it again, else install the package anew: pip install --force-reinstall mobile-sam"
            )
        models = {f"{MODELS}/{name}": models_folder / name for name in MODEL_FILES}
        missing = [str(path) for path in models.values() if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"files of the model are missing: {', '.join(missing)}; install the package anew")
        paths = {**dict(_files_below(built_folder)), **models}
        self.files: Mapping[str, PageFile] = {url: PageFile(url, path) for url, path in sorted(paths.items())}

    def find(self, url_path: str) -> PageFile | None:
        """Return the file at a path, percent-decoded and without a query; None where there is none."""
        return self.files.get(url_path.removeprefix("/") or INDEX)

    def size_bytes(self) -> dict[str, int]:
        """Sizes of what a visitor may download: "page", "runtime" (WebAssembly), "models", "examples"."""
        sums = dict.fromkeys(("page", "runtime", "models", "examples"), 0)
        folders = {"ort": "runtime", MODELS: "models", "examples": "examples"}
        for url, file in self.files.items():
            sums[folders.get(url.split("/")[0], "page")] += file.path.stat().st_size
        return sums


def open_page() -> Page:
    """List the files of the page that the package brings.

    Raises:
        FileNotFoundError: it was not built.
    """
    return Page(Path(__file__).resolve().parent / "page", bundled_folder())


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder with their relative URL; hidden ones and links that lead out are left out."""
    root = folder.resolve()
    for where, folders, names in os.walk(root):  # does not follow linked folders
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(where, name)
            if not name.startswith(".") and path.is_file() and path.resolve().is_relative_to(root):
                yield path.relative_to(root).as_posix(), path
