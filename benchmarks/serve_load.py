"""The server under load: many clients on loopback that send pictures and ask for masks, for a minute.

Each client goes its own way: one time in four it sends a picture, which is one of a few that all clients send or one
that was never sent before; else it asks for masks of the picture that it sent last, by a click, a box, or several
objects. It does as the server says: after 429 it waits for the time that Retry-After says, though no more than five
seconds, and after 404 it sends the picture again.

    answered          2xx; the percentiles are of these, from sending to the last byte, in milliseconds
    turned_away       429: more pictures or prompts wait than may
    unknown           404: the embedding gave way to others, or the server was started again
    other             all other statuses
    no_answer         connections refused or broken off; only while the server is killed and started again

Ends with an error if there is a status but these, a 404 although nothing was evicted, a connection broken without a
kill, a client that got no answer after the restart, or anything left behind by the server that was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from report import RESULTS, MachineWatch, facts, publish
from server import BESIDE_PYTHON, Server

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARE_OF_PICTURES, SHARE_OF_NEW = 0.25, 0.5
LONGEST_WAIT_S = 5.0  # else clients of a short run would sleep through most of it
NO_ANSWER = 0  # in place of a status
RECOVERY_S = 3.0  # after the server is ready again, in which connections may still be broken

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request and how it went."""

    kind: str
    status: int
    client: int
    started_s: float  # since the run began
    seconds: float


@dataclass
class Run:
    """What all clients share."""

    given: argparse.Namespace
    server: Server
    known: list[bytes]  # pictures that every client sends
    new: list[bytes]  # pictures that are sent once
    asked: list[Asked] = field(default_factory=list)
    rss_mb: list[tuple[float, float]] = field(default_factory=list)  # seconds since the run began, MB
    killed_s: float | None = None  # since the run began
    ready_again_s: float | None = None
    left_behind: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began


def make_pictures(num_new: int, longer_side_px: int) -> tuple[list[bytes], list[bytes]]:
    """JPEGs of the examples, and others made of them, each with a block of noise somewhere."""
    pictures = []
    for path in sorted(EXAMPLES.glob("*.[pj][np]g")):
        image = Image.open(path).convert("RGB")
        image.thumbnail((longer_side_px, longer_side_px))
        pictures.append(np.asarray(image))
    rng = np.random.default_rng(0)
    new = []
    for index in range(num_new):
        pixels = pictures[index % len(pictures)].copy()
        y, x = rng.integers(0, pixels.shape[0] - 32), rng.integers(0, pixels.shape[1] - 32)
        pixels[y : y + 32, x : x + 32] = rng.integers(0, 256, (32, 32, 3))
        new.append(as_jpeg(pixels))
    return [as_jpeg(pixels) for pixels in pictures], new


def as_jpeg(pixels: Any) -> bytes:
    """Encode (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=90)
    return file.getvalue()


def objects_for(kind: str, width: int, height: int, chance: random.Random) -> list[Row]:
    """Prompts of one kind anywhere in the picture."""

    def point() -> list[float]:
        return [chance.uniform(0, width - 1), chance.uniform(0, height - 1)]

    if kind == "click":
        return [{"points": [point()], "labels": [1]}]
    if kind == "box":
        (x1, x2), (y1, y2) = sorted((chance.uniform(0, 0.4), chance.uniform(0.6, 1))), (0.2, 0.9)
        return [{"box": [x1 * width, y1 * height, x2 * width, y2 * height]}]
    return [{"points": [point(), point()], "labels": [1, 0]} for _ in range(chance.randint(2, 6))]


class Client:
    """One of the many."""

    def __init__(self, run: Run, http: httpx.AsyncClient, number: int) -> None:
        self.run, self.http, self.number = run, http, number
        self.chance = random.Random(number)
        self.picture: Row | None = None  # what the server said of the one that was sent last

    async def live(self) -> None:
        """Ask until the time is over."""
        while self.run.now_s < self.run.given.seconds:
            if self.picture is None or self.chance.random() < SHARE_OF_PICTURES:
                await self.send_picture()
            else:
                await self.ask_for_masks()

    async def send_picture(self) -> None:
        """Send a picture, known or new."""
        is_new = bool(self.run.new) and self.chance.random() < SHARE_OF_NEW
        body = self.run.new.pop() if is_new else self.chance.choice(self.run.known)
        kind = "new picture" if is_new else "known picture"
        answer = await self.ask(kind, "/v1/embeddings", content=body, headers={"Content-Type": "image/jpeg"})
        if answer is not None and answer.is_success:
            self.picture = answer.json()
        elif is_new:
            self.run.new.append(body)  # it was not encoded, so it is new yet

    async def ask_for_masks(self) -> None:
        """Ask for masks of the picture that was sent last."""
        assert self.picture is not None
        kind = self.chance.choice(("click", "click", "click", "box", "objects"))
        objects = objects_for(kind, self.picture["width"], self.picture["height"], self.chance)
        answer = await self.ask(kind, "/v1/segment", json={"image": self.picture["id"], "objects": objects})
        if answer is not None and answer.status_code == 404:
            self.picture = None
        if answer is not None and answer.is_success and len(answer.json()["objects"]) != len(objects):
            self.run.errors["wrong number of objects"] += 1

    async def ask(self, kind: str, path: str, **request: Any) -> httpx.Response | None:
        """Send one request, note how it went, and wait if that is what the server wants."""
        started_s, answer = self.run.now_s, None
        try:
            answer = await self.http.post(path, **request)
        except httpx.TransportError as error:
            self.run.errors[type(error).__name__] += 1
        status = NO_ANSWER if answer is None else answer.status_code
        self.run.asked.append(Asked(kind, status, self.number, started_s, self.run.now_s - started_s))
        if answer is None:
            await asyncio.sleep(0.25)
        elif status in (429, 503):
            wait_s = float(answer.headers.get("Retry-After", 1))
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S) * self.chance.uniform(0.8, 1.2))
        return answer


async def watch_memory(run: Run) -> None:
    """Note the server's memory twice a second."""
    while True:
        rss_mb = run.server.rss_mb()
        if rss_mb is not None:
            run.rss_mb.append((run.now_s, rss_mb))
        await asyncio.sleep(0.5)


async def kill_and_restart(run: Run) -> None:
    """Kill the server in the middle, look what it left, and start it again."""
    await asyncio.sleep(run.given.kill_at)
    session = run.server.process.pid
    run.killed_s = run.now_s
    await asyncio.to_thread(run.server.kill)
    run.left_behind = run.server.left_behind(session)
    await asyncio.to_thread(run.server.start)
    run.ready_again_s = run.now_s


async def put_under_load(run: Run) -> None:
    """Let all clients live, side by side."""
    limits = httpx.Limits(max_connections=run.given.clients, max_keepalive_connections=run.given.clients)
    headers = {"Authorization": f"Bearer {run.given.token}"} if run.given.token else {}
    async with httpx.AsyncClient(base_url=run.server.url, limits=limits, timeout=90, headers=headers) as http:
        run.began = time.perf_counter()
        beside = [asyncio.create_task(watch_memory(run))]
        if run.given.kill_at is not None:
            beside.append(asyncio.create_task(kill_and_restart(run)))
        await asyncio.gather(*(Client(run, http, number).live() for number in range(run.given.clients)))
        if run.given.kill_at is not None:
            await beside[1]
        beside[0].cancel()


def tabulate(run: Run) -> list[Row]:
    """One row for each kind of request, and one for all."""
    by_kind: dict[str, list[Asked]] = defaultdict(list)
    for asked in run.asked:
        by_kind[asked.kind].append(asked)
    rows = []
    for kind, some in [*sorted(by_kind.items()), ("all", run.asked)]:
        statuses = Counter(asked.status for asked in some)
        latencies_ms = [1000 * asked.seconds for asked in some if 200 <= asked.status < 300]
        answered = len(latencies_ms)
        row: Row = {"kind": kind, "asked": len(some), "answered": answered, "turned_away": statuses[429]}
        row |= {"unknown": statuses[404], "no_answer": statuses[NO_ANSWER]}
        row["other"] = len(some) - answered - sum(statuses[known] for known in (429, 404, NO_ANSWER))
        row["per_second"] = answered / run.given.seconds
        for percent in (50, 90, 99, 100):
            name = "max_ms" if percent == 100 else f"p{percent}_ms"
            row[name] = float(np.percentile(latencies_ms, percent)) if latencies_ms else None
        rows.append(row)
    return rows


def describe_memory(run: Run) -> dict[str, str]:
    """The server's memory over time, in fewer numbers."""
    if not run.rss_mb:
        return {}
    times_s, sizes_mb = np.array(run.rss_mb).T
    parts = np.array_split(sizes_mb, 6)
    return {
        "server memory, MB": f"first {sizes_mb[0]:.0f}, most {sizes_mb.max():.0f}, last {sizes_mb[-1]:.0f}",
        f"most in each sixth of {times_s[-1]:.0f} s, MB": ", ".join(f"{part.max():.0f}" for part in parts if len(part)),
    }


def describe_server(counters: dict[str, float]) -> dict[str, str]:
    """What the server says of itself (since it was started last)."""
    cache = {name: counters[f"mobile_sam_embedding_cache_{name}_total"] for name in ("hits", "misses", "evictions")}
    batches = counters["mobile_sam_decode_batch_size_count"] or 1
    return {
        "embeddings": ", ".join(f"{value:.0f} {name}" for name, value in cache.items()),
        "prompts decoded together, mean": f"{counters['mobile_sam_decode_batch_size_sum'] / batches:.2f}",
    }


def complaints(run: Run, counters: dict[str, float], exit_code: int) -> list[str]:
    """What was not as it has to be."""
    found = []
    statuses = Counter(asked.status for asked in run.asked)
    wrong = {code: n for code, n in statuses.items() if not 200 <= code < 300 and code not in (429, 404, NO_ANSWER)}
    if wrong:
        found.append(f"statuses that there must not be: {wrong}")
    may_be_unknown = run.killed_s is not None or counters["mobile_sam_embedding_cache_evictions_total"] > 0
    if statuses[404] and not may_be_unknown:
        found.append(f"{statuses[404]} times 404 although nothing was evicted")
    for asked in run.asked:
        if asked.status == NO_ANSWER and not was_down(run, asked):
            found.append(f"no answer to {asked.kind} at {asked.started_s:.1f} s, while the server ran")
            break
    if run.killed_s is not None:
        again_s = run.ready_again_s or float("inf")
        answered = {asked.client for asked in run.asked if asked.started_s > again_s and asked.status != NO_ANSWER}
        if len(answered) < run.given.clients:
            found.append(f"only {len(answered)} of {run.given.clients} clients got an answer after the restart")
        found += [f"left behind by the server that was killed: {name}" for name in run.left_behind]
    if run.errors["wrong number of objects"]:
        found.append("answers with another number of objects than asked for")
    if exit_code:
        found.append(f"the server ended with {exit_code} when it was asked to stop")
    return found


def was_down(run: Run, asked: Asked) -> bool:
    """Whether a request overlaps the time from the kill to shortly after the restart."""
    if run.killed_s is None:
        return False
    until_s = (run.ready_again_s or float("inf")) + RECOVERY_S
    return asked.started_s + asked.seconds >= run.killed_s and asked.started_s <= until_s


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kill-at", type=float, help="seconds after which the server is killed and started again")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=float, default=1024, help="MiB for embeddings")
    parser.add_argument("--max-pixels", type=int)
    parser.add_argument("--max-body", type=float, help="MiB")
    parser.add_argument("--token")
    parser.add_argument("--longer-side", type=int, default=1024, help="of the pictures, in pixels")
    parser.add_argument("--new-pictures", type=int, default=400, help="that are made before the run")
    parser.add_argument("--mobile-sam", default=str(BESIDE_PYTHON), help="the command (default: beside this Python)")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_load.csv")
    given = parser.parse_args()
    if given.kill_at is not None and not 0 < given.kill_at < given.seconds:
        parser.error("--kill-at must lie within --seconds")
    return given


def server_options(given: argparse.Namespace) -> list[str]:
    """What the server is started with."""
    options = ["--engine", given.engine, "--workers", str(given.workers), "--cache", str(given.cache)]
    for name in ("max_pixels", "max_body", "token"):
        if getattr(given, name) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    return options


def main() -> None:
    """Run, write, print, and complain."""
    given = parse()
    header, watch = facts(), MachineWatch()
    known, new = make_pictures(given.new_pictures, given.longer_side)
    with Server(server_options(given), given.mobile_sam) as server:
        run = Run(given, server, known, new)
        asyncio.run(put_under_load(run))
        counters = server.metrics(given.token)
        session = server.process.pid
        exit_code = server.stop()
        found = complaints(run, counters, exit_code)
        found += [f"left behind by the server that was stopped: {name}" for name in server.left_behind(session)]
    header |= watch.facts() | {"clients": str(given.clients), "seconds": f"{given.seconds:g}"}
    header |= describe_memory(run) | describe_server(counters)
    if run.killed_s is not None:
        again_s = run.ready_again_s or float("inf")
        served = {asked.client for asked in run.asked if asked.started_s > again_s and 200 <= asked.status < 300}
        header["killed and ready again, s"] = f"{run.killed_s:.1f}, {again_s:.1f}"
        header["clients served after that"] = str(len(served))
    header["complaints"] = "; ".join(found) or "none"
    publish(given.out.stem, tabulate(run), header, given.out.parent)
    if found:
        sys.exit("not as it has to be: " + "; ".join(found))


if __name__ == "__main__":
    main()
