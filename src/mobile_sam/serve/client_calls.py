"""What the client asks a server and how it reads the answers, without sending anything itself.

Each of these is a generator: it yields a `Call` or a `Wait`, is sent the `Answer`, and returns the result. So one piece
of code serves the client that blocks and the one that awaits.
"""

from __future__ import annotations

import email.utils
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mobile_sam.core.embedding import EMBEDDING_STRIDE, Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import ImageSource, read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.serve.client_values import (
    RemoteModel,
    RemotePicture,
    RemotePrediction,
    RequestRefused,
    ServerError,
    ServerUnreachable,
)

MAX_WAIT_S = 30.0
"""Longest wait before a request is tried again, whatever the server asks for."""
FIRST_WAIT_S = 0.5  # where no time is asked for; doubles with each try
CALL_AGAIN = (429, 503)  # the statuses of a server that is busy, or about to be there
SENT_SETTINGS = (
    "mode",
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "min_mask_region_area",
)
"""Settings of `EverythingConfig` that the server takes."""

Candidates: TypeAlias = Literal["auto", "single", "three", "all"]
PictureOrId: TypeAlias = "RemotePicture | ImageSource"
Progress: TypeAlias = Callable[[int, int], None]
Record: TypeAlias = dict[str, Any]

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A request to send.

    Attributes:
        method: of HTTP.
        path: below the server's address.
        content: body.
        headers: beside those that every request has.
        on_line: told each line of a good answer as it comes; the answer then has no body.
    """

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    on_line: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Wait:
    """A pause before the next request, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back: a status, headers by their names in lower case, and the body; or why nothing did.

    Attributes:
        status: of HTTP; 0 if nothing came.
        headers: by their names in any case, or in lower case.
        body: empty where `Call.on_line` was told the lines.
        failure: why nothing came; None if something did.
        was_too_slow: whether that was for want of time, so that another try would most likely end alike.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    failure: str | None = None
    was_too_slow: bool = False

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)


Steps: TypeAlias = Generator["Call | Wait", "Answer | None", T]


def ask(call: Call, retries: int) -> Steps[Answer]:
    """Send a request, and again while the server is busy or not there.

    Raises:
        ServerError: the server refuses.
        ServerUnreachable: it cannot be reached.
    """
    attempt = 0
    while True:
        answer = yield call
        assert answer is not None
        if attempt == retries or not _is_worth_another_try(answer):
            break
        yield Wait(_wait_s(answer, attempt))
        attempt += 1
    if answer.failure is not None:
        raise ServerUnreachable(answer.failure)
    if answer.status >= 300:
        raise ServerError.of(_problem(answer), answer.status)
    return answer


def embed(source: ImageSource, retries: int) -> Steps[RemotePicture]:
    """Send a picture."""
    content = picture_bytes(source)
    headers = {"Content-Type": "application/octet-stream"}
    answer = yield from ask(Call("POST", "/v1/embeddings", content, headers), retries)
    with _reading(answer):
        return RemotePicture.of(answer.json(), content)


def embedding(picture: RemotePicture | str, retries: int) -> Steps[Embedding]:
    """Fetch what the encoder made of a picture."""
    return (yield from _with_picture(picture, lambda known: _fetch_embedding(known, retries), retries))


def _fetch_embedding(picture: RemotePicture, retries: int) -> Steps[Embedding]:
    answer = yield from ask(Call("GET", f"/v1/embeddings/{picture.id}?format=npy"), retries)
    with _reading(answer):
        features = np.load(io.BytesIO(answer.body), allow_pickle=False)
        resize = LongSideResize(picture.image_hw, max(features.shape[2:]) * EMBEDDING_STRIDE)
        return Embedding(features, picture.image_hw, resize.input_hw, picture.model_id)


def segment(
    picture: PictureOrId, prompts: Sequence[Prompt], candidates: Candidates, retries: int
) -> Steps[list[RemotePrediction]]:
    """Send prompts of one picture."""
    objects = [_object(prompt) for prompt in prompts]
    if not objects:
        return []

    def decode(known: RemotePicture) -> Steps[list[RemotePrediction]]:
        request = {"image": known.id, "objects": objects, "candidates": candidates, "output": "rle"}
        answer = yield from ask(_json_call("/v1/segment", request), retries)
        with _reading(answer):
            return [RemotePrediction.of(item["masks"], known.image_hw) for item in answer.json()["objects"]]

    return (yield from _with_picture(picture, decode, retries))


def everything(
    picture: PictureOrId, config: EverythingConfig, on_progress: Progress | None, retries: int
) -> Steps[list[Record]]:
    """Ask for the masks of everything."""
    settings = sent_settings(config)

    def find(known: RemotePicture) -> Steps[list[Record]]:
        events: list[Mapping[str, Any]] = []

        def on_line(line: str) -> None:
            event = _event(line)
            if event["event"] != "progress":
                events.append(event)
            elif on_progress is not None and event["total"]:  # which is 0 before the search begins
                on_progress(event["done"], event["total"])

        call = _json_call("/v1/everything", {"image": known.id, "settings": settings}, on_line)
        answer = yield from ask(call, retries)
        if not events:
            raise ServerError(answer.status, "Cut short", "the answer ended before the masks came; ask again")
        with _reading(answer):
            if events[-1]["event"] == "error":
                raise ServerError.of(events[-1]["problem"], 500)
            return [_record(mask) for mask in events[-1]["masks"]]

    return (yield from _with_picture(picture, find, retries))


def forget(picture: RemotePicture | str, retries: int) -> Steps[bool]:
    """Have an embedding dropped; False if there was none."""
    embedding_id = picture.id if isinstance(picture, RemotePicture) else _checked_id(picture)
    try:
        yield from ask(Call("DELETE", f"/v1/embeddings/{embedding_id}"), retries)
    except RequestRefused as refusal:
        if refusal.status != 404:
            raise
        return False
    return True


def models(retries: int) -> Steps[list[RemoteModel]]:
    """List the server's models."""
    answer = yield from ask(Call("GET", "/v1/models"), retries)
    names = [known.name for known in fields(RemoteModel)]
    with _reading(answer):
        return [RemoteModel(**{name: model[name] for name in names}) for model in answer.json()["models"]]


def is_ready() -> Steps[bool]:
    """Find out whether the server takes requests."""
    answer = yield Call("GET", "/readyz")
    assert answer is not None
    return answer.failure is None and answer.status == 200


def picture_bytes(source: ImageSource) -> bytes:
    """Read a picture as the file that it is; arrays and Pillow images become PNG, which changes no pixel.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an array or object that is no picture.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    if hasattr(source, "read"):
        content = source.read()
        if not isinstance(content, bytes):
            raise ValueError(f"a file must be open in binary mode (rb), but read() gave {type(content).__name__}")
        return content
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(read_image(source)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def sent_settings(config: EverythingConfig) -> dict[str, Any]:
    """Return the settings as the server takes them.

    Raises:
        ValueError: one that it does not take is not at its default.
    """
    if not isinstance(config, EverythingConfig):
        raise ValueError(f"config must be an EverythingConfig, got {type(config).__name__}")
    for known in fields(config):
        is_sent = known.name in (*SENT_SETTINGS, "output_mode", "points_per_batch")
        if not is_sent and getattr(config, known.name) != known.default:
            raise ValueError(
                f"{known.name} cannot be set over HTTP; the server takes {', '.join(SENT_SETTINGS)}. "
                "Use SamAutomaticMaskGenerator for the others"
            )
    return {name: getattr(config, name) for name in SENT_SETTINGS}


def prompts_of(
    prompts: Sequence[Prompt] | None, points: ArrayLike | None, labels: ArrayLike | None, box: ArrayLike | None
) -> Sequence[Prompt]:
    """Take several prompts, or make one of points and a box.

    Raises:
        ValueError: both, or neither.
    """
    has_one = points is not None or labels is not None or box is not None
    if prompts is None:
        return [Prompt.of(points=points, labels=labels, box=box)]
    if has_one:
        raise ValueError("pass either prompts or points, labels and box, not both")
    if isinstance(prompts, Prompt):
        raise ValueError("prompts must be several, got one Prompt; use [prompt]")
    return prompts


def _with_picture(picture: PictureOrId, use: Callable[[RemotePicture], Steps[T]], retries: int) -> Steps[T]:
    """Do something with an encoded picture; send it (again) where the server does not have it."""
    if isinstance(picture, RemotePicture):
        known = picture
    elif isinstance(picture, str) and _is_id(picture):
        answer = yield from ask(Call("GET", f"/v1/embeddings/{picture}"), retries)
        with _reading(answer):
            known = RemotePicture.of(answer.json())
    else:
        known = yield from embed(picture, retries)
    try:
        return (yield from use(known))
    except RequestRefused as refusal:
        if refusal.status != 404 or known.source is None:
            raise
    # What the server dropped in the meantime comes back with another id if its model has changed.
    return (yield from use((yield from embed(known.source, retries))))


def _is_id(text: str) -> bool:
    return re.fullmatch(r"emb_[0-9a-f]{32}", text) is not None


def _checked_id(text: str) -> str:
    if not isinstance(text, str) or not _is_id(text):
        raise ValueError(f"an id is 'emb_' and 32 hexadecimal digits, got {text!r}; use the id of a RemotePicture")
    return text


def _object(prompt: Prompt) -> dict[str, Any]:
    if prompt.mask is not None:
        raise ValueError("a mask prompt cannot be sent; use points and a box, or SamPredictor")
    sent: dict[str, Any] = {}
    if len(prompt.points_xy):
        sent |= {"points": prompt.points_xy.tolist(), "labels": prompt.labels.tolist()}
    if prompt.box_xyxy is not None:
        sent["box"] = prompt.box_xyxy.tolist()
    return sent


def _json_call(path: str, request: Mapping[str, Any], on_line: Callable[[str], None] | None = None) -> Call:
    return Call("POST", path, json.dumps(request).encode(), {"Content-Type": "application/json"}, on_line)


@contextmanager
def _reading(answer: Answer) -> Iterator[None]:
    """Say that something else answers than this package's server, where an answer cannot be read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, EOFError) as error:
        if isinstance(error, ServerError):
            raise
        raise _not_understood(answer.status, error) from error


def _not_understood(status: int, error: Exception) -> ServerError:
    detail = f"the answer is none that this client can read; is it a server of another kind or version? {error!r}"
    return ServerError(status, "Not understood", detail)


def _event(line: str) -> Mapping[str, Any]:
    try:
        event: Mapping[str, Any] = json.loads(line)
        if event["event"] in ("progress", "result", "error"):
            return event
        raise ValueError(f"no known event: {line[:80]}")
    except (LookupError, TypeError, ValueError) as error:
        raise _not_understood(200, error) from error


def _record(mask: Mapping[str, Any]) -> Record:
    """Bring a mask to the keys of `SamAutomaticMaskGenerator.generate`."""
    height, width = mask["rle"]["size"]
    x, y, box_width, box_height = mask["bbox"]  # in pixels, where SAM's records have the last column minus the first
    return {
        "segmentation": mask["rle"],
        "area": mask["area"],
        "bbox": [x, y, max(box_width - 1, 0), max(box_height - 1, 0)],
        "predicted_iou": mask["predicted_iou"],
        "point_coords": [mask["point"]],
        "stability_score": mask["stability_score"],
        "crop_box": [0, 0, width, height],
    }


def _is_worth_another_try(answer: Answer) -> bool:
    return answer.status in CALL_AGAIN if answer.failure is None else not answer.was_too_slow


def _wait_s(answer: Answer, attempt: int) -> float:
    """How long to wait: as the server says in seconds or as a date, else longer each time."""
    asked = answer.headers.get("retry-after", "")
    try:
        wait_s = float(asked)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except (TypeError, ValueError):
            wait_s = FIRST_WAIT_S * 2**attempt
    return min(max(wait_s, 0.0), MAX_WAIT_S) if math.isfinite(wait_s) else MAX_WAIT_S


def _problem(answer: Answer) -> Mapping[str, Any]:
    """Read a problem document; of another answer, what can be said of it."""
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if isinstance(document, dict) and ("title" in document or "detail" in document):
        return document
    return {"title": "Error", "detail": answer.body[:200].decode("utf-8", errors="replace")}
