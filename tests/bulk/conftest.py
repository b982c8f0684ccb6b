"""Engines, and pictures as a run hands them to its workers."""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mobile_sam.bulk.items import Batch, Item, Place
from mobile_sam.engines import Engine, make_engine


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of fake workers, which processes that are spawned find by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # they get the same path
    return importlib.import_module("fake_workers")


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], bool]:
    """Wait until something is so, for a minute at most; tell whether it is."""

    def wait(is_so: Callable[[], bool]) -> bool:
        ends_s = time.monotonic() + 60
        while not is_so() and time.monotonic() < ends_s:
            time.sleep(0.02)
        return is_so()

    return wait


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The bundled weights on ONNX Runtime, one thread."""
    return make_engine("onnxruntime", num_threads=1)


@pytest.fixture
def make_item() -> Callable[..., Item]:
    """Makes an item of a picture's path, called by its stem."""

    def make(number: int, path: Path, **more: object) -> Item:
        return Item(number, path.stem, path.name, Place(str(path)), **more)

    return make


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[[int], list[Path]]:
    """Makes small pictures, each of one colour, in a folder of their own."""

    def make(num_pictures: int) -> list[Path]:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"p{number:03d}.png" for number in range(num_pictures)]
        for number, path in enumerate(paths):
            Image.new("RGB", (64 + number, 48), (number * 10 % 256, 100, 50)).save(path)
        return paths

    return make


@pytest.fixture
def make_batches(make_item: Callable[..., Item]) -> Callable[[Sequence[Path], int], list[Batch]]:
    """Cuts pictures into batches, as `Manifest.pending_batches` does."""

    def make(paths: Sequence[Path], batch_size: int) -> list[Batch]:
        items = [make_item(number, path) for number, path in enumerate(paths, 1)]
        starts = range(0, len(items), batch_size)
        return [Batch(start // batch_size, tuple(items[start : start + batch_size])) for start in starts]

    return make
