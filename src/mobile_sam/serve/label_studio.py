"""Label Studio's ML backend: marks that a labeller makes come in, regions of the objects' masks go out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.masks import decode_rle
from mobile_sam.serve.descriptions import problems
from mobile_sam.serve.label_studio_config import Output, read_config
from mobile_sam.serve.label_studio_context import marked_objects, target_of
from mobile_sam.serve.label_studio_pictures import LabelStudioPictures, PictureUnavailable
from mobile_sam.serve.label_studio_regions import Region, mask_regions
from mobile_sam.serve.label_studio_setup import ProjectSetup
from mobile_sam.serve.limits import Deadline, timed_out
from mobile_sam.serve.problems import ProblemError, problem_of
from mobile_sam.serve.service import QueueFull, SegmentService, ServiceClosed, TokenPrediction, UnknownEmbedding

MAX_PROJECTS = 1024
MAX_KNOWN_PICTURES = 4096
MAX_ADDRESS_CHARACTERS = 4096
BATCH_S = 600.0  # for all tasks of a request together; Label Studio waits 100 s unless it was told otherwise
KNOWN_S = 600.0  # for how long a file's address is taken to mean the same picture

logger = logging.getLogger(__name__)
T = TypeVar("T")
ProjectId = Annotated[str, Field(max_length=100)] | int | None


class PredictRequest(BaseModel):
    """What Label Studio asks with: tasks, the labelling configuration, and what was marked."""

    model_config = ConfigDict(extra="allow")
    tasks: list[dict[str, Any]]
    label_config: str
    project: ProjectId = None
    params: dict[str, Any] | None = None


class SetupRequest(BaseModel):
    """What Label Studio says of a project before it asks."""

    model_config = ConfigDict(extra="allow")
    project: ProjectId = None
    schema_: str | None = Field(default=None, alias="schema")
    extra_params: dict[str, Any] | str | None = None


def label_studio_router(service: SegmentService, pictures: LabelStudioPictures | None = None) -> APIRouter:
    """Make the routes of Label Studio's ML backend: /predict, /setup, /health, /webhook, /versions and /.

    Args:
        service: encodes and decodes.
        pictures: reads the tasks' pictures; by default as LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY say when this is
            called.

    Returns:
        A router to include under a prefix such as /label-studio. Errors are `ProblemError`s: 400 for a broken picture,
        422 for a request that is wrong or a picture that is not fetched, 429 and 503 with Retry-After, 502 where Label
        Studio does not hand out a picture, 504 when the time is up.
    """
    backend = _Backend(service, pictures or LabelStudioPictures.from_environment(service.settings.max_body_bytes))
    router = APIRouter(tags=["Label Studio"])
    model_version = backend.model_version

    unavailable: dict[int | str, dict[str, Any]] = {502: {"description": "Label Studio does not hand out a picture."}}
    refusals = problems(400, 408, 413, 422, 503)

    @router.post("/predict", responses={**problems(400, 408, 413, 422, 429, 503, 504), **unavailable})
    async def predict(request: PredictRequest) -> dict[str, Any]:
        """Answer marks with regions, or pre-annotate tasks where the project's setup asks for it."""
        return {"results": await backend.predict(request), "model_version": model_version}

    @router.post("/setup", responses=refusals)
    async def setup(request: SetupRequest) -> dict[str, Any]:
        """Note a project's extra parameters, and check its labelling configuration."""
        backend.set_up(request)
        return {"model_version": model_version}

    @router.get("/health", responses=problems())
    @router.get("/", include_in_schema=False)
    async def health() -> dict[str, str]:
        """Say that the backend is up."""
        return {"status": "UP", "model_class": "MobileSAM"}

    @router.post("/webhook", responses=refusals)
    async def webhook(event: dict[str, Any]) -> dict[str, str]:
        """Take note of an event; nothing is trained."""
        return {"status": "ok", "result": f"{str(event.get('action', 'event'))[:80]}: nothing is trained here"}

    @router.get("/versions", responses=problems())
    async def versions() -> dict[str, list[str]]:
        """List the one model version there is."""
        return {"versions": [model_version]}

    return router


class _Backend:
    """What the routes do. All of it runs in the event loop but for what the service's threads are given."""

    def __init__(self, service: SegmentService, pictures: LabelStudioPictures) -> None:
        self._service = service
        self._pictures = pictures
        self._setups: _Newest[ProjectSetup] = _Newest(MAX_PROJECTS)
        self._known_ids: _Newest[tuple[str, float]] = _Newest(MAX_KNOWN_PICTURES)  # of embeddings, and since when
        self.model_version = f"mobile-sam {service.engine.model_id}"

    def set_up(self, request: SetupRequest) -> None:
        with _as_http_errors():
            setup = ProjectSetup.of(request.extra_params)
            if request.schema_:
                read_config(request.schema_, kind=setup.output)
        self._setups.put(str(request.project), setup)

    async def predict(self, request: PredictRequest) -> list[Any]:
        setup = self._setups.get(str(request.project)) or ProjectSetup()
        with _as_http_errors():
            marks = _marks(request.params)
            if marks:
                return [await self._answer(request, marks, setup)]
            if setup.everything is None or not request.tasks:
                return []  # Label Studio then keeps no prediction, where an empty one would count as one
            output = read_config(request.label_config, kind=setup.output)
            if len(request.tasks) == 1:
                return [await self._pre_annotate(request.tasks[0], output, setup)]
        batch = Deadline(BATCH_S)
        return [await self._pre_annotate_one_of_many(task, output, setup, batch) for task in request.tasks]

    async def _answer(
        self, request: PredictRequest, marks: Sequence[Mapping[str, Any]], setup: ProjectSetup
    ) -> dict[str, Any]:
        if len(request.tasks) != 1:
            raise ValueError(f"marks belong to one task, got {len(request.tasks)} tasks")
        deadline = Deadline(self._service.settings.timeout_s)
        output = read_config(request.label_config, target_of(marks), setup.output)
        embedding = await self._embedding(request.tasks[0], output, deadline)
        objects = marked_objects(marks, embedding.image_hw)
        self._check_numbers([len(marked.points) for marked in objects])
        if not objects:
            return self._prediction([], [])

        def regions(row: int, prediction: TokenPrediction) -> tuple[list[Region], float]:
            score = float(prediction.iou_predictions[0])
            return mask_regions(prediction.masks[0], score, output, objects[row].label), score

        prompts = [marked.prompt() for marked in objects]
        answers = await deadline.result_of(self._service.submit_answers(embedding, prompts, "auto", regions))
        return self._prediction([region for found, _ in answers for region in found], [score for _, score in answers])

    def _check_numbers(self, points_each: Sequence[int]) -> None:
        limits = self._service.settings
        if len(points_each) > limits.max_objects or max(points_each, default=0) > limits.max_points:
            raise ValueError(
                f"{len(points_each)} objects with up to {max(points_each)} points are marked, more than the "
                f"{limits.max_objects} objects and {limits.max_points} points allowed"
            )

    async def _pre_annotate(self, task: Mapping[str, Any], output: Output, setup: ProjectSetup) -> dict[str, Any]:
        assert setup.everything is not None
        deadline = Deadline(self._service.settings.timeout_s)
        embedding = await self._embedding(task, output, deadline)
        is_over = False
        try:
            found = self._service.submit_everything(embedding, setup.everything, _nobody_told, lambda: is_over)
            records = await deadline.result_of(found)
        finally:
            is_over = True  # where nobody waits any longer, the search ends

        def regions() -> list[Region]:
            return [
                region
                for record in records
                for region in mask_regions(
                    decode_rle(record["segmentation"]), float(record["predicted_iou"]), output, setup.label
                )
            ]

        scores = [float(record["predicted_iou"]) for record in records]
        return self._prediction(await asyncio.to_thread(regions), scores)

    async def _pre_annotate_one_of_many(
        self, task: Mapping[str, Any], output: Output, setup: ProjectSetup, batch: Deadline
    ) -> dict[str, Any] | list[Any]:
        """Leave a task without a prediction, and say so in the log, if its picture is at fault or the time is up."""
        try:
            with _as_http_errors():
                if not batch.left_s:
                    raise timed_out()
                return await self._pre_annotate(task, output, setup)
        except ProblemError as error:
            if error.status_code in (429, 503):
                raise
            logger.warning("task %.40s has no prediction: %s", task.get("id"), error.detail)
            return []

    async def _embedding(self, task: Mapping[str, Any], output: Output, deadline: Deadline) -> Embedding:
        data = task.get("data")
        address = data.get(output.data_key) if isinstance(data, Mapping) else None
        if not isinstance(address, str) or not address:
            raise ValueError(f"the task's data must have the picture's address as {output.data_key!r}")
        is_file = not address.startswith("data:")
        if is_file and len(address) > MAX_ADDRESS_CHARACTERS:
            raise ValueError(f"the picture's address must have at most {MAX_ADDRESS_CHARACTERS} characters")
        known = self._known_ids.get(address) if is_file else None
        if known is not None and time.monotonic() - known[1] < KNOWN_S:
            try:
                return self._service.find(known[0])
            except UnknownEmbedding:
                pass
        body = await self._pictures.read(address, task.get("id"))
        future = await asyncio.to_thread(self._service.submit_picture, body)  # which hashes it
        embedded = await deadline.result_of(future)
        if is_file:
            self._known_ids.put(address, (embedded.id, time.monotonic()))
        return embedded.embedding

    def _prediction(self, regions: list[Region], scores: Sequence[float]) -> dict[str, Any]:
        score = sum(scores) / len(scores) if scores else 0.0
        return {"result": regions, "score": score, "model_version": self.model_version}


class _Newest(Generic[T]):
    """Remembers so many values at most; the oldest go."""

    def __init__(self, num_most: int) -> None:
        self._num_most = num_most
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str) -> T | None:
        return self._values.get(key)

    def put(self, key: str, value: T) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._num_most:
            self._values.popitem(last=False)


def _nobody_told(done: int, total: int) -> None:
    """Label Studio shows no progress."""


def _marks(params: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the regions of the request's context; none if there is no context."""
    context = (params or {}).get("context")
    if context is None:
        return []
    marks = context.get("result") if isinstance(context, Mapping) else None
    if marks is None and isinstance(context, Mapping):
        return []
    if not isinstance(marks, list) or not all(isinstance(mark, Mapping) for mark in marks):
        raise ValueError("params.context must be an object with a list of regions, result")
    return marks


@contextmanager
def _as_http_errors() -> Iterator[None]:
    """Answer what went wrong by a status of HTTP."""
    try:
        yield
    except (QueueFull, ServiceClosed, ImageReadError) as error:
        problem = problem_of(error)
        assert problem is not None
        raise problem from error
    except PictureUnavailable as error:
        raise ProblemError(502, str(error)) from error
    except (ValueError, OverflowError) as error:  # the latter of whole numbers beyond all bounds
        raise ProblemError(422, str(error)) from error
