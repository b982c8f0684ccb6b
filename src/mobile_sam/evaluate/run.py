"""The loop of every protocol that goes through pictures: read, encode, measure, write down; killed, it goes on."""

from __future__ import annotations

import io
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.images import exif_orientation, read_image
from mobile_sam.data.embedding_store import EmbeddingStore
from mobile_sam.data.records import Picture
from mobile_sam.evaluate.journal import Journal
from mobile_sam.evaluate.measurements import Attempt
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

NOTED = "noted: "
"""What reasons begin with that are counted beside what is left out, although nothing is left out for them."""

Progress = Callable[[int, int, int], None]
"""Told after each picture: how many are done, how many of these failed, how many there are."""


class Task(Protocol):
    """What is measured on a picture."""

    models: tuple[Model, ...]

    def entry(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> dict[str, Any]:
        """Measure a picture.

        Args:
            picture: with its objects.
            embeddings: of the picture, by the model's name.
            stopwatch: takes the seconds of each stage.
            left_out: what could not be measured is counted here, by reason.

        Returns:
            What came of it, ready for JSON.
        """


class PixelsTask(ABC):
    """A task whose models read the pixels and encode them themselves, as where the whole of their work is timed.

    Attributes:
        models: all that run.
    """

    models: tuple[Model, ...]

    @abstractmethod
    def entry_of_pixels(self, opened: OpenedPicture, stopwatch: Stopwatch, left_out: Counter[str]) -> dict[str, Any]:
        """Measure a picture; see `Task.entry`."""


class MaskTask(ABC):
    """A task that compares masks: `attempts` does it, what is kept are the measurements.

    Attributes:
        models: all that run.
    """

    models: tuple[Model, ...]

    @abstractmethod
    def attempts(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> Iterator[Attempt]:
        """Put all prompts of a picture to all models.

        Args:
            picture: with its objects.
            embeddings: of the picture, by the model's name.
            stopwatch: takes the seconds of "prompts", "decode", "masks" and "compare".
            left_out: what could not be measured is counted here, by reason.

        Yields:
            For each prompt, protocol, model and step what was asked and answered.
        """

    def entry(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> dict[str, Any]:
        """See `Task.entry`: the measurements as rows, without the picture's id."""
        attempts = self.attempts(picture, embeddings, stopwatch, left_out)
        return {"rows": [attempt.measurement.to_row() for attempt in attempts]}


@dataclass(frozen=True, eq=False)
class OpenedPicture:
    """A picture that was read.

    Attributes:
        picture: what was read.
        pixels: (H, W, 3) uint8 RGB.
        content: the file's bytes.
        is_turned: whether the EXIF tag turned the pixels; annotations may be of either frame.
    """

    picture: Picture
    pixels: NDArray[np.uint8]
    content: bytes
    is_turned: bool = False


def open_picture(picture: Picture) -> OpenedPicture:
    """Read a picture's file.

    Raises:
        OSError: it cannot be read. ImageReadError: it is damaged, or not of the size that was annotated.
    """
    content = picture.path.read_bytes()
    try:
        pixels = read_image(content)
    except ImageReadError as error:
        raise ImageReadError(f"{picture.path.name}: {error}") from error
    size_hw = (pixels.shape[0], pixels.shape[1])
    if picture.size_hw is not None and size_hw != picture.size_hw:
        raise ImageReadError(
            f"{picture.path.name} has {size_hw[1]} x {size_hw[0]} px, annotated are {picture.size_hw[1]} x "
            f"{picture.size_hw[0]} (width x height); is it another version of the picture, or turned by its EXIF tag?"
        )
    return OpenedPicture(picture, pixels, content, _is_turned(content))


def _is_turned(content: bytes) -> bool:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return exif_orientation(image) > 1


def embed(
    opened: OpenedPicture, models: Iterable[Model], store: EmbeddingStore | None, stopwatch: Stopwatch
) -> dict[str, Embedding]:
    """Encode a picture with each model, or take the embedding from the store; by the model's name."""
    embeddings = {}
    for model in models:
        embedding = None
        if store is not None:
            with stopwatch.stage("store"):
                embedding = store.get(model.encoder_id, opened.content, model.engine.model_id)
        if embedding is None:
            with stopwatch.stage("encode"):
                (embedding,) = model.engine.encode([opened.pixels])
            if store is not None:
                with stopwatch.stage("store"):
                    store.put(model.encoder_id, opened.content, embedding)
        embeddings[model.name] = embedding
    return embeddings


def run_pictures(
    pictures: Sequence[Picture],
    task: Task | PixelsTask,
    journal: Journal,
    *,
    store: EmbeddingStore | None = None,
    stopwatch: Stopwatch | None = None,
    progress: Progress | None = None,
) -> int:
    """Measure the pictures that the journal lacks; it then has an entry for each, "failed" with a reason for some.

    The next picture is read while one is worked on. Whatever goes wrong with a picture costs that picture.

    Args:
        pictures: in order.
        task: what to measure.
        journal: takes the entries.
        store: embeddings on disk, for a task that takes embeddings.
        stopwatch: takes the seconds of each stage.
        progress: told after each picture.

    Returns:
        How many pictures the journal had before.
    """
    stopwatch = stopwatch or Stopwatch()
    missing = [picture for picture in pictures if not _is_measured(picture, journal)]
    num_before = num_done = len(pictures) - len(missing)
    num_failed = 0
    if progress:
        progress(num_done, num_failed, len(pictures))
    for picture, opened in _read_ahead(missing, stopwatch):
        left_out: Counter[str] = Counter()
        try:
            if isinstance(opened, Exception):
                raise opened
            entry = _entry(task, opened, store, stopwatch, left_out) | {"file_bytes": len(opened.content)}
            if opened.is_turned and picture.instances:
                left_out[NOTED + "pictures turned by their EXIF tag, taken upright"] += 1
        except Exception as error:
            logger.debug("picture %s failed", picture.id, exc_info=error)
            entry = {"failed": _reason(error)}
            left_out.clear()  # the whole picture is
            num_failed += 1
        journal.append(picture.id, {**entry, "left_out": dict(left_out)})
        num_done += 1
        if progress:
            progress(num_done, num_failed, len(pictures))
    return num_before


def _entry(
    task: Task | PixelsTask,
    opened: OpenedPicture,
    store: EmbeddingStore | None,
    stopwatch: Stopwatch,
    left_out: Counter[str],
) -> dict[str, Any]:
    """Hand a picture to a task as the task takes it: its pixels, or its embeddings."""
    if isinstance(task, PixelsTask):
        return task.entry_of_pixels(opened, stopwatch, left_out)
    return task.entry(opened.picture, embed(opened, task.models, store, stopwatch), stopwatch, left_out)


def _is_measured(picture: Picture, journal: Journal) -> bool:
    """Tell whether a journal has the measurements of a picture, of a file as long as it is now."""
    if not journal.is_done(picture.id):
        return False
    try:
        return journal.entries[picture.id].get("file_bytes") == picture.path.stat().st_size
    except OSError:
        return False


def _read_ahead(
    pictures: Sequence[Picture], stopwatch: Stopwatch
) -> Iterator[tuple[Picture, OpenedPicture | Exception]]:
    """Read each picture while the one before is worked on; what could not be read is given as the error it raised."""
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(_try_to_open, picture) for picture in pictures[:1]]
        for index, picture in enumerate(pictures):
            with stopwatch.stage("read (waiting)"):
                opened = coming.pop().result()
            coming += [reader.submit(_try_to_open, following) for following in pictures[index + 1 : index + 2]]
            yield picture, opened


def _try_to_open(picture: Picture) -> OpenedPicture | Exception:
    try:
        return open_picture(picture)
    except Exception as error:  # noqa: BLE001 - one picture of many
        return error


def _reason(error: Exception) -> str:
    """Say what went wrong; an error that is not of the expected kinds is named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"
