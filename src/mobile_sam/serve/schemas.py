"""What requests and answers consist of; pydantic checks the requests, and OpenAPI describes both.

Everywhere: x, y are pixels of the picture as a viewer shows it (upright, EXIF applied), x to the right and y down from
its upper left corner, and sizes are in pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobile_sam.serve.service import Candidates

Output = Literal["rle", "polygons", "png"]
CountsFormat = Literal["compressed", "plain"]

MAX_COORDINATE_PX = 1e9
MAX_NAME_LENGTH = 200  # characters
MAX_POINTS_PER_SIDE = 64  # of the grid of everything; 32 is SAM's

Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE_PX, le=MAX_COORDINATE_PX, description="pixels of the picture")]
Point = tuple[Coordinate, Coordinate]
Corners = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
EmbeddingId = Annotated[
    str, Field(max_length=100, description="An id that /v1/embeddings gave.", examples=["emb_" + 32 * "0"])
]


class Asked(BaseModel):
    """A part of a request: unknown names, texts in place of numbers, NaN and Infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Base64Picture(Asked):
    """A picture within JSON."""

    base64: str = Field(description="The bytes of a JPEG, PNG, WebP, TIFF or BMP file in base64; a data: URL will do.")


class Mark(Asked):
    """A prompt as samexporter and rembg write it."""

    type: Literal["point", "rectangle"]
    data: Annotated[list[Coordinate], Field(min_length=2, max_length=4)] = Field(
        description="x, y of a point; x1, y1, x2, y2 of a rectangle"
    )
    label: int | None = Field(None, description="Of a point: 1 the object (default), 0 not the object.")

    @model_validator(mode="after")
    def _check(self) -> Mark:
        expected = 2 if self.type == "point" else 4
        if len(self.data) != expected:
            raise ValueError(f"data of a {self.type} must be {expected} numbers, got {len(self.data)}")
        if self.type == "point" and self.label not in (None, 0, 1):
            raise ValueError(f"label of a point must be 1 (the object) or 0 (not the object), got {self.label}")
        return self


class ObjectPrompt(Asked):
    """What is said of one object: points, a box or both; or `prompt` in their place."""

    points: list[Point] | None = Field(None, min_length=1, description="x, y of each click in pixels of the picture")
    labels: list[Literal[0, 1]] | None = Field(
        None, description="One for each point: 1 the object, 0 not the object; all 1 when left out."
    )
    box: Corners | None = Field(None, description="x1, y1, x2, y2 in pixels: upper left and lower right corner")
    prompt: list[Mark] | None = Field(None, min_length=1, description="The form of samexporter and rembg.")
    name: str | None = Field(None, max_length=MAX_NAME_LENGTH, description="Comes back with the masks.")

    @model_validator(mode="after")
    def _check(self) -> ObjectPrompt:
        has_own = self.points is not None or self.box is not None
        if has_own == (self.prompt is not None):
            raise ValueError("an object needs points, a box or both; or prompt in their place")
        if self.labels is not None and len(self.labels) != len(self.points or ()):
            raise ValueError(f"labels must be as many as points, got {len(self.labels)} and {len(self.points or ())}")
        if self.prompt is not None and sum(mark.type == "rectangle" for mark in self.prompt) > 1:
            raise ValueError("prompt has several rectangles, and an object takes one; make an object of each")
        return self


class SegmentOptions(Asked):
    """What to cut out, and how to answer."""

    objects: list[ObjectPrompt] = Field(min_length=1, description="All are cut out of one encoding of the picture.")
    candidates: Candidates = Field(
        "auto",
        description="auto: one mask for each object, for a lone click the best of three; single: SAM's single mask; "
        "three: its three for ambiguous prompts; all: these four",
    )
    output: Output = Field("rle", description="rle: COCO's run lengths; polygons: outer outlines; png: grey, 0 and 255")
    counts_format: CountsFormat = Field("compressed", description="Of rle: COCO's string, or a list of runs.")


class SegmentRequest(SegmentOptions):
    """A picture, or its embedding's id, with what to cut out."""

    image: EmbeddingId | Base64Picture


class EverythingSettings(Asked):
    """Settings of "segment everything"; names and defaults are SAM's."""

    mode: Literal["exact", "fast"] = Field(
        default="exact", description="fast: points only where nothing is explained yet"
    )
    points_per_side: int = Field(
        default=32, ge=1, le=MAX_POINTS_PER_SIDE, description="Points along each side of the grid."
    )
    pred_iou_thresh: float = Field(
        default=0.88, ge=0, le=1, description="Least predicted IoU, not included; 0: no limit."
    )
    stability_score_thresh: float = Field(default=0.95, ge=0, le=1, description="Least stability score.")
    box_nms_thresh: float = Field(default=0.7, ge=0, le=1, description="Most IoU of the boxes of two masks.")
    min_mask_region_area: int = Field(
        default=0, ge=0, le=1_000_000, description="Holes and islands of fewer pixels are filled and removed."
    )


class EverythingOptions(Asked):
    """How to look for everything, and how to answer."""

    settings: EverythingSettings = EverythingSettings()
    counts_format: CountsFormat = Field("compressed", description="COCO's string, or a list of runs.")


class EverythingRequest(EverythingOptions):
    """A picture, or its embedding's id, to find everything in."""

    image: EmbeddingId | Base64Picture


class EmbeddingAnswer(BaseModel):
    """An embedding that the server keeps, until others need its place."""

    id: str = Field(description="Names picture and model: the same picture has the same id.")
    width: int = Field(description="pixels of the upright picture")
    height: int = Field(description="pixels of the upright picture")
    model_id: str = Field(description="Names the encoder by its weights.")
    was_cached: bool = Field(description="Whether the picture was known, so that nothing was encoded.")
    milliseconds: dict[str, float] = Field(description="By stage: wait_encode, read, encode; total.")


class RleAnswer(BaseModel):
    """A mask as COCO's run lengths: down the columns, background first."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str | list[int]


class MaskAnswer(BaseModel):
    """A mask, in the form that was asked for."""

    token: int = Field(ge=0, le=3, description="0: SAM's single mask; 1 to 3: its three for ambiguous prompts")
    score: float = Field(description="The model's own guess of the mask's IoU, about 0 to 1.")
    area: int = Field(description="pixels of the mask")
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels, as COCO's; zeros if empty")
    rle: RleAnswer | None = None
    polygons: list[list[tuple[float, float]]] | None = Field(
        None, description="Outer outlines through the centres of the pixels at the edge (x, y), the largest part first."
    )
    png: str | None = Field(None, description="base64 of an 8-bit grey PNG of the picture's size, 0 and 255")


class ObjectAnswer(BaseModel):
    """The masks of one object."""

    name: str | None = None
    masks: list[MaskAnswer]


class SegmentAnswer(BaseModel):
    """The masks of all objects, in the order of the request."""

    id: str = Field(description="Of the picture's embedding, for further requests.")
    width: int = Field(description="pixels of the upright picture")
    height: int = Field(description="pixels of the upright picture")
    model_id: str
    objects: list[ObjectAnswer]
    milliseconds: dict[str, float] = Field(description="By stage: those of the encoding, if any; decode; total.")


class FoundAnswer(BaseModel):
    """A mask that was found."""

    rle: RleAnswer
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels, as COCO's")
    area: int = Field(description="pixels of the mask")
    predicted_iou: float
    stability_score: float = Field(description="0 to 1")
    point: tuple[float, float] = Field(description="x, y of the prompt in pixels")


class ErrorPart(BaseModel):
    """One part of a request that is wrong."""

    where: str = Field(examples=["objects[0].box"])
    what: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked.")
    request_id: str = Field(description="The X-Request-Id of the answer, and in the server's log.")
    errors: list[ErrorPart] | None = None


class ProgressEvent(BaseModel):
    """How far it is; also sent when nothing has changed for a while."""

    event: Literal["progress"]
    done: int = Field(description="points")
    total: int = Field(description="points; 0 before it has begun")


class ResultEvent(BaseModel):
    """The last line, when all went well."""

    event: Literal["result"]
    id: str = Field(description="Of the picture's embedding.")
    width: int
    height: int
    model_id: str
    masks: list[FoundAnswer] = Field(description="By falling predicted IoU.")
    milliseconds: dict[str, float]


class ErrorEvent(BaseModel):
    """The last line, when something went wrong after the answer had begun."""

    event: Literal["error"]
    problem: Problem


class ModelAnswer(BaseModel):
    """A model that the server runs."""

    id: str
    engine: str
    input_side: int = Field(description="Side of the square that the encoder sees, in pixels.")
    is_default: bool


class ModelsAnswer(BaseModel):
    """What the server runs, and what it takes."""

    models: list[ModelAnswer]
    version: str
    limits: dict[str, float] = Field(
        description="max_pixels, max_body_bytes, max_objects, max_points (of an object), max_points_per_side, timeout_s"
    )


class StatusAnswer(BaseModel):
    """How the server is."""

    status: str
