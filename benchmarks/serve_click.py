"""What a click costs over HTTP beside the bare predictor, and what the server gets done with one worker and with two.

    healthz          a request that does nothing: what HTTP itself takes
    predictor        SamPredictor.predict(..., multimask_output=False) of one point, in this process
    single           POST /v1/segment of the same point on a cached picture, "candidates": "single", the same work
    auto             the same as the server answers by default, the best of three masks
    auto, httpx      the same, asked through httpx, as the package's own client does
    ratio_to_predictor   of the medians

All but the last ask through the standard library's http.client, since httpx itself takes a millisecond and it is the
server that is measured. These take turns, point by point, so that whatever else the machine does hits all of them. Then
several clients at once ask a server of 1 and of 2 workers for clicks, and have it encode pictures that it has not seen,
each for some seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from report import RESULTS, MachineWatch, facts, publish
from serve_load import make_pictures
from server import BESIDE_PYTHON, Server

from mobile_sam import SamPredictor

EXAMPLES = Path(__file__).parent.parent / "examples"
WARM_UP = 5
COLUMNS = ("measured", "workers", "n", "p50_ms", "p90_ms", "ratio_to_predictor", "per_second")

Row = dict[str, Any]


def row_of(measured: str, workers: int, **values: Any) -> Row:
    """A row with all columns."""
    return {**dict.fromkeys(COLUMNS), "measured": measured, "workers": workers, **values}


def send(client: httpx.Client, body: bytes) -> Row:
    """Have a picture encoded."""
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "image/png"}).raise_for_status()
    found: Row = answer.json()
    return found


def click_cost(server: Server, given: argparse.Namespace) -> list[Row]:
    """Latency of one click after the other."""
    predictor = SamPredictor(engine=given.engine)
    picture = Path(given.picture)
    predictor.set_image(picture)
    chance, spent_ms = random.Random(0), defaultdict(list)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with httpx.Client(base_url=server.url, timeout=60) as client, closing(connection):
        embedded = send(client, picture.read_bytes())

        def asked_for(point: list[float], candidates: str) -> Row:
            objects = [{"points": [point], "labels": [1]}]
            return {"image": embedded["id"], "objects": objects, "candidates": candidates}

        def ask(method: str, path: str, asked: Row | None = None) -> None:
            body = None if asked is None else json.dumps(asked)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

        def segment(point: list[float], candidates: str) -> None:
            ask("POST", "/v1/segment", asked_for(point, candidates))

        def segment_by_httpx(point: list[float]) -> None:
            client.post("/v1/segment", json=asked_for(point, "auto")).raise_for_status()

        for round_index in range(given.clicks + WARM_UP):
            point = [chance.uniform(0, embedded["width"] - 1), chance.uniform(0, embedded["height"] - 1)]
            points_xy, labels = np.array([point]), np.array([1])
            measured: list[tuple[str, Callable[[], object]]] = [
                ("healthz", lambda: ask("GET", "/healthz")),
                ("predictor", lambda: predictor.predict(points_xy, labels, multimask_output=False)),  # noqa: B023
                ("single", lambda: segment(point, "single")),  # noqa: B023
                ("auto", lambda: segment(point, "auto")),  # noqa: B023
                ("auto, httpx", lambda: segment_by_httpx(point)),  # noqa: B023
            ]
            turn = round_index % len(measured)
            for name, run in measured[turn:] + measured[:turn]:
                started = time.perf_counter()
                run()
                if round_index >= WARM_UP:
                    spent_ms[name].append(1000 * (time.perf_counter() - started))
    bare_ms = float(np.median(spent_ms["predictor"]))
    return [
        row_of(
            name,
            1,
            n=len(some),
            p50_ms=float(np.median(some)),
            p90_ms=float(np.percentile(some, 90)),
            ratio_to_predictor=float(np.median(some)) / bare_ms,
        )
        for name, some in spent_ms.items()
    ]


async def clients_at_once(ask: Callable[[], Awaitable[bool]], num_clients: int, seconds: float) -> Row:
    """Let clients ask one after the other for some seconds, and count what was answered."""
    spent_ms: list[float] = []
    began = time.perf_counter()

    async def live() -> None:
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            if await ask():
                spent_ms.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*(live() for _ in range(num_clients)))
    lasted_s = time.perf_counter() - began
    return {
        "n": len(spent_ms),
        "p50_ms": float(np.median(spent_ms)),
        "p90_ms": float(np.percentile(spent_ms, 90)),
        "per_second": len(spent_ms) / lasted_s,
    }


async def throughput(server: Server, workers: int, given: argparse.Namespace) -> list[Row]:
    """Clicks and new pictures in a second, by several clients at once."""
    known, new = make_pictures(given.new_pictures, 1024)
    chance = random.Random(0)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def encode(body: bytes) -> httpx.Response:
            return await client.post("/v1/embeddings", content=body, headers={"Content-Type": "image/jpeg"})

        pictures = [(await encode(body)).raise_for_status().json() for body in known]

        async def click() -> bool:
            picture = chance.choice(pictures)
            point = [chance.uniform(0, picture["width"] - 1), chance.uniform(0, picture["height"] - 1)]
            asked = {"image": picture["id"], "objects": [{"points": [point], "labels": [1]}]}
            return (await client.post("/v1/segment", json=asked)).is_success

        async def encode_new() -> bool:
            return (await encode(new.pop())).is_success

        clicks = await clients_at_once(click, given.clients, given.seconds)
        encodes = await clients_at_once(encode_new, given.clients, given.seconds)
    return [
        row_of(f"clicks of {given.clients} clients", workers, **clicks),
        row_of(f"new pictures of {given.clients} clients", workers, **encodes),
    ]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", default=str(EXAMPLES / "chelsea.png"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement of throughput; 0 for none")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--new-pictures", type=int, default=300, help="that are made before throughput is measured")
    parser.add_argument("--mobile-sam", default=str(BESIDE_PYTHON), help="the command (default: beside this Python)")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_click.csv")
    given = parser.parse_args()
    header, watch = facts(), MachineWatch()
    with Server(["--engine", given.engine], given.mobile_sam) as server:
        rows = click_cost(server, given)
    for workers in given.workers if given.seconds else []:
        with Server(["--engine", given.engine, "--workers", str(workers)], given.mobile_sam) as server:
            rows += asyncio.run(throughput(server, workers, given))
    publish(given.out.stem, rows, header | watch.facts(), given.out.parent)


if __name__ == "__main__":
    main()
