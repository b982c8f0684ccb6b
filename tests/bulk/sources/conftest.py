import io
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobile_sam.bulk.items import Listed
from mobile_sam.bulk.sources import list_sources
from mobile_sam.data.records import Problem


class Listing:
    """What listing some sources gave."""

    def __init__(self, *sources: object, shard: tuple[int, int] = (0, 1)) -> None:
        self.problems: list[Problem] = []
        self.listed: list[Listed] = list(
            list_sources([str(source) for source in sources], shard=shard, on_problem=self.problems.append)
        )

    @property
    def keys(self) -> list[str]:
        return [listed.key for listed in self.listed]

    @property
    def file_names(self) -> list[str]:
        return [listed.file_name for listed in self.listed]

    @property
    def paths(self) -> list[str]:
        return [listed.place.path for listed in self.listed]

    @property
    def identities(self) -> list[str]:
        return [listed.identity for listed in self.listed]

    @property
    def kinds(self) -> list[str]:
        return [problem.kind for problem in self.problems]


@pytest.fixture
def listing() -> type[Listing]:
    return Listing


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write files whose content is their name; gives the folder."""

    def write(*names: str, folder: str = ".") -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode("utf-8", "surrogateescape"))
        return tmp_path / folder

    return write


def tar_bytes(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def put_tar(tmp_path: Path) -> Callable[..., Path]:
    """Write a tar of (name, content)."""

    def write(name: str, *members: tuple[str, bytes]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes(*members))
        return path

    return write


@pytest.fixture
def make_tar() -> Callable[..., bytes]:
    return tar_bytes


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    """Put files into fsspec's store in memory."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")

    def write(path: str, content: bytes = b"") -> None:
        store.pipe_file(path, content)

    yield write
    store.store.clear()
    store.pseudo_dirs[:] = [""]


class _Handler(SimpleHTTPRequestHandler):
    """Serves files, and parts of them, as object stores do; some answers are told beforehand."""

    answers_ranges = True
    statuses: list[int]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        if self.statuses:
            self.send_error(self.statuses.pop(0))
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if found is None or not self.answers_ranges or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        start, end = int(found[1]), int(found[2] or len(content) - 1) + 1
        self.send_response(206 if start < len(content) else 416)
        part = content[start:end]
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


class Server:
    """An HTTP server of a folder."""

    def __init__(self, folder: Path) -> None:
        self.handler = type("Handler", (_Handler,), {"statuses": [], "asked": []})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: self.handler(*args, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    folder = tmp_path / "www"
    folder.mkdir()
    serving = Server(folder)
    yield serving
    serving.close()


@pytest.fixture(autouse=True)
def waited_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have been waited before each further try."""
    waited: list[float] = []
    monkeypatch.setattr("mobile_sam.bulk.sources.retrying.sleep", waited.append)
    return waited
