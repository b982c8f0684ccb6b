"""What a request says, read out of its body: JSON, a picture, or both as multipart. Nothing touches the disk."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from mobile_sam.core.prompts import Prompt
from mobile_sam.serve.problems import ProblemError, where_and_what
from mobile_sam.serve.schemas import ObjectPrompt
from mobile_sam.serve.settings import ServeSettings

MAX_PARTS = 8  # of a multipart body
MAX_PART_HEADER_BYTES = 4096
MARKS_OF_A_POINT = 10  # commas, colons and brackets of a point in its longest form, as samexporter writes it
MARKS_OF_AN_OBJECT = 40
MARKS_OF_A_REQUEST = 200

Asked = TypeVar("Asked", bound=BaseModel)


def media_type(request: Request) -> str:
    """Return the type of the body, without parameters, in lower case; "" if it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wrong_media_type(request: Request, *expected: str) -> ProblemError:
    """Return the error of a body of another type than is expected."""
    came = media_type(request)[:100] or "none"
    return ProblemError(415, f"the Content-Type must be {' or '.join(expected)}, got {came}")


def parse_json(model: type[Asked], content: bytes, settings: ServeSettings) -> Asked:
    """Check JSON against a model.

    The marks that separate values are counted beforehand: a parsed list takes many times the memory of its text, and
    pictures in base64, which make bodies long, have none of them.

    Raises:
        ProblemError: 413, more values than the limits on objects and points allow; 422, no JSON or another form.
    """
    of_an_object = MARKS_OF_A_POINT * settings.max_points + MARKS_OF_AN_OBJECT
    most_marks = settings.max_objects * of_an_object + MARKS_OF_A_REQUEST
    if sum(content.count(mark) for mark in b",:[{") > most_marks:
        raise ProblemError(
            413,
            f"the JSON has more values than {settings.max_objects} objects of {settings.max_points} points have; split "
            "it into several requests",
        )
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise ProblemError(422, "the request is malformed", errors=[where_and_what(part) for part in errors]) from None


def split_multipart(content_type: str, content: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """Take a multipart body apart, in memory.

    Args:
        content_type: the header, which has the boundary.
        content: the body.
        names: of the fields that may come, each at most once.

    Raises:
        ProblemError: 400, the body is damaged; 422, other fields.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # as RFC 2046 has it
        raise ProblemError(400, "the multipart body cannot be read: Content-Type must name a boundary of 1 to 70 bytes")
    collector = _PartCollector(names)
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError(400, f"the multipart body cannot be read: {error}") from error
    if not collector.is_whole:
        raise ProblemError(400, "the multipart body is cut short: its last boundary is missing")
    return {name: bytes(part) for name, part in collector.parts.items()}


class _PartCollector:
    """Told by the parser what it sees."""

    def __init__(self, names: Sequence[str]) -> None:
        self.parts: dict[str, bytearray] = {}
        self.is_whole = False
        self._names = names
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._part = bytearray()
        self._num_parts = 0

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._name_part,
            "on_part_data": lambda data, start, end: self._part.extend(memoryview(data)[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise ProblemError(422, f"the multipart body has more than {MAX_PARTS} parts")
        self._disposition = b""

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        if len(self._header[which]) > MAX_PART_HEADER_BYTES:
            raise ProblemError(400, f"a header of a part is longer than {MAX_PART_HEADER_BYTES} bytes")

    def _end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _name_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", errors="replace")
        if name not in self._names:
            expected = " and ".join(self._names)
            raise ProblemError(422, f"the multipart body has the field {name[:50]!r}; expected are {expected}")
        if name in self.parts:
            raise ProblemError(422, f"the multipart body has the field {name!r} twice")
        self._part = self.parts[name] = bytearray()

    def _end(self) -> None:
        self.is_whole = True


def decode_base64(text: str) -> bytes:
    """Return the picture's bytes of `Base64Picture`.

    Raises:
        ProblemError: 422, it is no base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # letters that are not ASCII
        what = f"it is no base64: {error}"
        raise ProblemError(422, "the picture is malformed", errors=[("image.base64", what)]) from error


def prompts_of(objects: Sequence[ObjectPrompt], image_hw: tuple[int, int], settings: ServeSettings) -> list[Prompt]:
    """Turn the objects of a request into prompts that lie in the picture.

    Raises:
        ProblemError: 422, too many objects or points, or wrong ones, with their places.
    """
    if len(objects) > settings.max_objects:
        raise ProblemError(422, f"at most {settings.max_objects} objects a request, got {len(objects)}; send several")
    prompts, errors = [], []
    for index, asked in enumerate(objects):
        try:
            prompts.append(_prompt_of(asked, settings.max_points))
            prompts[-1].check_inside(image_hw)
        except ValueError as error:
            errors.append((f"objects[{index}]", str(error)))
    if errors:
        raise ProblemError(422, "prompts are wrong; nothing was cut out", errors=errors)
    return prompts


def _prompt_of(asked: ObjectPrompt, max_points: int) -> Prompt:
    points, labels, box = asked.points, asked.labels, asked.box
    if asked.prompt is not None:
        clicks = [mark for mark in asked.prompt if mark.type == "point"]
        points = [(mark.data[0], mark.data[1]) for mark in clicks] or None
        labels = [0 if mark.label == 0 else 1 for mark in clicks] or None
        rectangles = [mark.data for mark in asked.prompt if mark.type == "rectangle"]
        box = (*rectangles[0],) if rectangles else None  # type: ignore[assignment]
    if points is not None and len(points) > max_points:
        raise ValueError(f"at most {max_points} points an object, got {len(points)}")
    return Prompt.of(points, labels, box)
