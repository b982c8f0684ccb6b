"""A client of `mobile-sam serve`: have a picture encoded once, then ask for masks of it; see `Client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from numpy.typing import ArrayLike

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.images import ImageSource
from mobile_sam.core.prompts import Prompt
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.serve import client_calls as calls
from mobile_sam.serve.client_calls import Answer, Call, Candidates, PictureOrId, Progress, Record, Steps, Wait
from mobile_sam.serve.client_values import (
    RemoteModel,
    RemotePicture,
    RemotePrediction,
    RequestRefused,
    ServerError,
    ServerUnreachable,
)

if TYPE_CHECKING:
    import httpx

__all__ = [
    "AsyncClient",
    "Client",
    "RemoteModel",
    "RemotePicture",
    "RemotePrediction",
    "RequestRefused",
    "ServerError",
    "ServerUnreachable",
]

T = TypeVar("T")


class Client:
    """Asks a server and waits for its answers; may be used by several threads, and as a context manager.

    A complete example:

        from mobile_sam import Prompt
        from mobile_sam.serve.client import Client

        with Client("http://127.0.0.1:8000") as client:
            picture = client.embed("photo.jpg")
            (cat,) = client.segment(picture, points=[[320, 200]])
            print(cat.masks.shape, cat.scores)  # (1, H, W) bool, and how good the model thinks it is
            prompts = [Prompt.of(box=[10, 20, 200, 300]), Prompt.of(points=[[400, 90], [420, 60]], labels=[1, 0])]
            dog, ball = client.segment(picture, prompts)
            records = client.everything(picture, on_progress=lambda done, total: print(done, total))
            client.forget(picture)

    Every method may raise `RequestRefused` (a ValueError: what was asked for is wrong), `ServerError` (its other
    trouble) and `ServerUnreachable` (a ConnectionError).

    Args:
        url: address of the server, with a path if it lies below one.
        token: what the server was started with as --token.
        timeout_s: longest time without a sign of the server, in seconds.
        retries: how often a request is sent again when the server is busy (429, 503) or cannot be reached; before each
            try comes the pause that the server asks for, at most 30 s.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ValueError: no http or https address, a timeout or number of retries that makes no sense.
        MissingDependencyError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 3,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = _checked_retries(retries)
        settings = _settings(url, token, timeout_s)
        self._http: httpx.Client = _httpx().Client(**settings, transport=transport)

    def embed(self, picture: ImageSource) -> RemotePicture:
        """Have a picture encoded.

        Args:
            picture: path, encoded bytes, open binary file, Pillow image, or array as for `mobile_sam.read_image`.

        Raises:
            RequestRefused: it is no picture, or too large.
            FileNotFoundError: there is no such file.
        """
        return self._run(calls.embed(picture, self._retries))

    def embedding(self, picture: RemotePicture | str) -> Embedding:
        """Fetch the embedding of an encoded picture, for `SamPredictor.set_embedding`: 4 MiB.

        Args:
            picture: what `embed` returned, or its id.
        """
        return self._run(calls.embedding(picture, self._retries))

    def segment(
        self,
        picture: PictureOrId,
        prompts: Sequence[Prompt] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        candidates: Candidates = "auto",
    ) -> list[RemotePrediction]:
        """Ask for the masks of one or several objects.

        Args:
            picture: what `embed` returned, its id, or a picture as for `embed`. Where the server has dropped a picture
                that was not given by its id alone, it is sent again.
            prompts: one for each object, without masks.
            points: in place of prompts, of one object: (N, 2) x, y in pixels of the picture.
            labels: (N,) 1 the object, 0 not the object.
            box: (4,) x1, y1, x2, y2.
            candidates: "auto" for one mask, of a lone click the best of three; "single" for the mask of prompts that
                leave no doubt, "three" for those of a click that may mean several things, "all" for these four.

        Returns:
            For each object its masks.
        """
        chosen = calls.prompts_of(prompts, points, labels, box)
        return self._run(calls.segment(picture, chosen, candidates, self._retries))

    def everything(
        self,
        picture: PictureOrId,
        config: EverythingConfig | None = None,
        on_progress: Progress | None = None,
    ) -> list[Record]:
        """Find the masks of everything in a picture.

        Args:
            picture: as for `segment`.
            config: mode, points per side, the three thresholds and the least region; the rest at its defaults.
            on_progress: told how many points are done with, and how many there are.

        Returns:
            Records as of `SamAutomaticMaskGenerator.generate` with output_mode "coco_rle".

        Raises:
            ValueError: a setting that cannot be sent.
        """
        return self._run(calls.everything(picture, config or EverythingConfig(), on_progress, self._retries))

    def forget(self, picture: RemotePicture | str) -> bool:
        """Have an embedding dropped from the server's memory; False if it was not there."""
        return self._run(calls.forget(picture, self._retries))

    def models(self) -> list[RemoteModel]:
        """List the models that the server runs."""
        return self._run(calls.models(self._retries))

    def is_ready(self) -> bool:
        """Tell whether the server can be reached and takes requests; asks once, and raises nothing."""
        return self._run(calls.is_ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        """Send what a generator yields, until it returns."""
        run = _Run(steps)
        while (step := run.step) is not None:
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                run.go_on(None)
            else:
                run.go_on(self._send(step))
        return run.result

    def _send(self, call: Call) -> Answer:
        try:
            with self._http.stream(**_request(call)) as answer:
                if call.on_line is None or answer.status_code != 200:
                    return Answer(answer.status_code, answer.headers, answer.read())
                for line in answer.iter_lines():
                    call.on_line(line)
                return Answer(answer.status_code, answer.headers, b"")
        except _httpx().TransportError as error:
            return _no_answer(error, self._http.base_url)


class AsyncClient:
    """As `Client`, with methods to await."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 3,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = _checked_retries(retries)
        settings = _settings(url, token, timeout_s)
        self._http: httpx.AsyncClient = _httpx().AsyncClient(**settings, transport=transport)

    async def embed(self, picture: ImageSource) -> RemotePicture:
        """See `Client.embed`."""
        return await self._run(calls.embed(picture, self._retries))

    async def embedding(self, picture: RemotePicture | str) -> Embedding:
        """See `Client.embedding`."""
        return await self._run(calls.embedding(picture, self._retries))

    async def segment(
        self,
        picture: PictureOrId,
        prompts: Sequence[Prompt] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        candidates: Candidates = "auto",
    ) -> list[RemotePrediction]:
        """See `Client.segment`."""
        chosen = calls.prompts_of(prompts, points, labels, box)
        return await self._run(calls.segment(picture, chosen, candidates, self._retries))

    async def everything(
        self,
        picture: PictureOrId,
        config: EverythingConfig | None = None,
        on_progress: Progress | None = None,
    ) -> list[Record]:
        """See `Client.everything`; `on_progress` is called, not awaited."""
        return await self._run(calls.everything(picture, config or EverythingConfig(), on_progress, self._retries))

    async def forget(self, picture: RemotePicture | str) -> bool:
        """See `Client.forget`."""
        return await self._run(calls.forget(picture, self._retries))

    async def models(self) -> list[RemoteModel]:
        """See `Client.models`."""
        return await self._run(calls.models(self._retries))

    async def is_ready(self) -> bool:
        """See `Client.is_ready`."""
        return await self._run(calls.is_ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        run = _Run(steps)
        while (step := run.step) is not None:
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                run.go_on(None)
            else:
                run.go_on(await self._send(step))
        return run.result

    async def _send(self, call: Call) -> Answer:
        try:
            async with self._http.stream(**_request(call)) as answer:
                if call.on_line is None or answer.status_code != 200:
                    return Answer(answer.status_code, answer.headers, await answer.aread())
                async for line in answer.aiter_lines():
                    call.on_line(line)
                return Answer(answer.status_code, answer.headers, b"")
        except _httpx().TransportError as error:
            return _no_answer(error, self._http.base_url)


class _Run(Generic[T]):
    """A generator of steps that is under way.

    Attributes:
        step: what to do next; None when there is nothing left.
        result: what came of it, then.
    """

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.step: Call | Wait | None = None
        self.go_on(None)

    def go_on(self, answer: Answer | None) -> None:
        """Hand over what came back, and find out what is next."""
        try:
            self.step = self._steps.send(answer)
        except StopIteration as end:
            self.step, self.result = None, end.value


def _no_answer(error: Exception, url: object) -> Answer:
    """Say why no answer came."""
    if isinstance(error, _httpx().TimeoutException):
        return Answer(0, {}, b"", f"{url} did not answer in time ({type(error).__name__}); raise timeout_s?", True)
    reason = str(error) or type(error).__name__
    return Answer(0, {}, b"", f"{url} cannot be reached: {reason}; does `mobile-sam serve` run there?")


def _request(call: Call) -> dict[str, Any]:
    path = call.path.removeprefix("/")  # else a path in the server's address would be lost
    return {"method": call.method, "url": path, "content": call.content, "headers": dict(call.headers)}


def _settings(url: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"url must be an http or https address such as http://127.0.0.1:8000, got {url!r}")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be more than 0 seconds, got {timeout_s!r}")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {"base_url": url, "headers": headers, "timeout": timeout_s, "follow_redirects": False}


def _checked_retries(retries: int) -> int:
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number, 0 or more, got {retries!r}")
    return retries


def _httpx() -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        advice = "the client needs httpx; run: pip install 'mobile-sam[serve]'"
        raise MissingDependencyError(advice, name="httpx") from error
    return httpx
