"""What the client gives and raises: pictures that a server has encoded, masks that it sent, and its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import decode_rle

SHOWN_ERRORS = 3  # in the message


class ServerError(Exception):
    """The server answered, but not with what was asked for.

    Attributes:
        status: HTTP status of the answer; 200 where it began well and then broke off.
        title: what kind of problem it is, in a few words.
        detail: what happened, and mostly what to do about it.
        errors: of a request that was wrong, what is wrong at which place; may be empty.
    """

    def __init__(self, status: int, title: str, detail: str, errors: tuple[Any, ...] = ()) -> None:
        places = [
            f"{error.get('where')}: {error.get('what')}" for error in errors[:SHOWN_ERRORS] if isinstance(error, dict)
        ]
        super().__init__("; ".join([f"{status} {title}" + (f": {detail}" if detail else ""), *places]))
        self.status, self.title, self.detail, self.errors = status, title, detail, errors

    @classmethod
    def of(cls, problem: Mapping[str, Any], status: int) -> ServerError:
        """Read a problem document; a `RequestRefused` where the caller could have asked better."""
        status = _whole_number(problem.get("status"), status)
        errors = problem.get("errors")
        return (RequestRefused if 400 <= status < 500 and status != 429 else ServerError)(
            status,
            str(problem.get("title") or "Error"),
            str(problem.get("detail") or ""),
            tuple(errors) if isinstance(errors, list) else (),
        )


class RequestRefused(ServerError, ValueError):
    """What was asked for is wrong: no picture, a prompt outside of it, an unknown id, no token (status 400 to 499)."""


class ServerUnreachable(ConnectionError):
    """No answer came: nothing listens there, the connection broke, or the time was up."""


@dataclass(frozen=True, eq=False)
class RemotePicture:
    """A picture that the server has encoded.

    Attributes:
        id: name of the embedding on the server.
        width: of the picture, upright, in pixels.
        height: of the picture, upright, in pixels.
        model_id: names the encoder's weights.
        was_cached: whether the server had encoded this picture before.
        source: the bytes that were sent, with which the client sends the picture again if the server has dropped it;
            None for a picture that is known by its id alone.
    """

    id: str
    width: int
    height: int
    model_id: str
    was_cached: bool
    source: bytes | None = field(default=None, repr=False)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return self.height, self.width

    @classmethod
    def of(cls, answer: Mapping[str, Any], source: bytes | None = None) -> RemotePicture:
        """Read an answer of `/v1/embeddings`."""
        width, height = int(answer["width"]), int(answer["height"])
        return cls(str(answer["id"]), width, height, str(answer["model_id"]), bool(answer["was_cached"]), source)


@dataclass(frozen=True, eq=False)
class RemotePrediction:
    """The masks of one prompt.

    Attributes:
        masks: (M, H, W) bool of the picture's size.
        scores: (M,) float32, the model's own guess of each mask's IoU; about 0 to 1.
        tokens: (M,) int64, which of the model's four masks each is: 0 for prompts that leave no doubt, 1 to 3 for a
            click that may mean a whole, a part or a part of it.
        boxes_xywh: (M, 4) int64 x, y, width, height in pixels; zeros for an empty mask.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    tokens: NDArray[np.int64]
    boxes_xywh: NDArray[np.int64]

    @property
    def best(self) -> int:
        """Index of the mask with the highest score."""
        return int(np.argmax(self.scores))

    @classmethod
    def of(cls, masks: list[Mapping[str, Any]], image_hw: tuple[int, int]) -> RemotePrediction:
        """Read the masks of one object of an answer of `/v1/segment`.

        Raises:
            ValueError: a mask that is not of the picture's size.
        """
        pixels = np.zeros((len(masks), *image_hw), np.bool_)
        for row, mask in enumerate(masks):
            if list(mask["rle"]["size"]) != list(image_hw):
                raise ValueError(f"masks must be of the picture's size {image_hw} (H, W), got {mask['rle']['size']}")
            pixels[row] = decode_rle(mask["rle"])
        return cls(
            pixels,
            np.array([mask["score"] for mask in masks], np.float32),
            np.array([mask["token"] for mask in masks], np.int64),
            np.array([mask["bbox"] for mask in masks], np.int64).reshape(-1, 4),
        )


@dataclass(frozen=True)
class RemoteModel:
    """A model that the server runs.

    Attributes:
        id: names the encoder's weights; embeddings carry it.
        engine: who runs it, see `mobile_sam.engines.make_engine`.
        input_side: side of the square that pictures are resized to, in pixels.
        is_default: whether pictures are encoded with it unless another is asked for.
    """

    id: str
    engine: str
    input_side: int
    is_default: bool


def _whole_number(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
