"""The page in Chromium: one browser for all tests, and one tab for those that need no fresh one."""

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext

from mobile_sam.serve.page_files import Page as PageFilesOfPackage
from mobile_sam.serve.page_files import open_page
from mobile_sam.serve.page_server import PageServer
from mobile_sam.serve.static_site import HEADERS_FILE, write_static_site

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "scripts"))
from page_driver import READY_MS, Visit, launched, running  # noqa: E402

SUB_PATH = "some/where"
PERMISSIONS = ["clipboard-read", "clipboard-write"]
DESKTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="session")
def page_files() -> PageFilesOfPackage:
    return open_page()  # its error says what to run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as started:  # its error, too
        yield started


@pytest.fixture(scope="session")
def site_url(page_files: PageFilesOfPackage) -> Iterator[str]:
    """Where `mobile-sam demo` serves the page."""
    server = PageServer(page_files)
    with running(server):
        yield server.url


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port on which nothing listens, a moment ago at least."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class QuietHandler(SimpleHTTPRequestHandler):
    """A web host that knows nothing of the page: no headers of its own."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def plain_url(page_files: PageFilesOfPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where any web host serves the folder of `mobile-sam demo --save`: below a path, without the headers."""
    root = tmp_path_factory.mktemp("host")
    write_static_site(page_files, root / SUB_PATH)
    (root / SUB_PATH / HEADERS_FILE).unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=root))
    with running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/{SUB_PATH}/"
    shutil.rmtree(root)


class Watch:
    """What no page may do: complain on the console, or ask another origin."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.faults: list[str] = []
        self.foreign: list[str] = []
        self._origin = urlsplit(url).netloc
        context.on("console", lambda message: self._hear(message.type, message.text))
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("request", lambda request: self._see(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(text)

    def _see(self, url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != self._origin:
            self.foreign.append(url)

    def check(self) -> None:
        """Fail if there was anything of that."""
        assert self.faults == []
        assert self.foreign == []


NewVisit = Callable[..., Visit]


@pytest.fixture(scope="session")
def new_visit(browser: Browser, site_url: str) -> Iterator[NewVisit]:
    """Make a visit in a browser profile of its own, closed at the end: `new_visit(url, **options of new_context)`."""
    contexts: list[BrowserContext] = []

    def make(url: str = site_url, *, waits: bool = True, **options: object) -> Visit:
        context = browser.new_context(**{"viewport": DESKTOP, "permissions": PERMISSIONS, **options})
        context.set_default_timeout(READY_MS)
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.watch = Watch(context, url)
        if waits:
            visit.go(url)
        return visit

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shared_visit(new_visit: NewVisit) -> Visit:
    return new_visit()


@pytest.fixture
def visit(shared_visit: Visit, cat: Path) -> Iterator[Visit]:
    """The tab that tests share: the cat is open, nothing is marked."""
    shared_visit.tab.bring_to_front()  # in the background, browsers open no file chooser
    picture = shared_visit.state()["picture"]
    if picture is None or picture["name"] != cat.name:
        shared_visit.open(cat)  # only then, since encoding is what takes the time
    shared_visit.start_over()
    yield shared_visit
    shared_visit.watch.check()


@pytest.fixture(scope="session")
def cat(examples: Path) -> Path:
    return examples / "chelsea.png"  # 451 x 300


@pytest.fixture(scope="session")
def portrait(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An astronaut, 270 x 512."""
    path = tmp_path_factory.mktemp("pictures") / "portrait.png"
    Image.open(examples / "astronaut.png").convert("RGB").crop((60, 0, 330, 512)).save(path)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc of radius 6 on dark ground, 31 x 23."""
    y, x = np.indices((23, 31))
    is_disc = np.hypot(x - 15, y - 11) < 6
    path = tmp_path_factory.mktemp("pictures") / "tiny.png"
    Image.fromarray(np.where(is_disc[..., None], (240, 200, 40), (20, 30, 60)).astype(np.uint8)).save(path)
    return path
