"""Ray: imported quietly, joined or started, and left as it was found."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mobile_sam.core.errors import MissingDependencyError

USAGE_SWITCH = "RAY_USAGE_STATS_ENABLED"
LOCAL_STORE_BYTES = 256 << 20
"""Shared memory of a cluster that is started here: what goes through it are names and numbers, not pictures."""
CONNECT_WITHIN_S = 10
MAX_START_DEATHS = 5
"""Actors in a row that may die while they start, as where nodes come and go, before the run ends."""


@dataclass(frozen=True)
class RayOptions:
    """Which cluster a run uses, and how much of it.

    Attributes:
        address: of a cluster that runs, "host:port" or "auto" for the one of this machine; None for the one that the
            environment variable RAY_ADDRESS names, and where it is not set, one that is started on this machine for the
            run.
        min_actors: processes with a model, at least.
        max_actors: the same, at most; None for as many as find room when a window of work begins.
        num_cpus: cores that Ray sets aside for each; the engine's threads are the settings' `num_threads`.
        num_gpus: GPUs that Ray sets aside for each; 0.5 lets two share one.

    Raises:
        ValueError: a number out of range, or an address of Ray Client.
    """

    address: str | None = None
    min_actors: int = 1
    max_actors: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        if self.min_actors < 1:
            raise ValueError(f"min_actors must be at least 1, got {self.min_actors}")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors must be at least min_actors, {self.min_actors}, got {self.max_actors}")
        if not self.num_cpus > 0:
            raise ValueError(f"num_cpus must be above 0, got {self.num_cpus}")
        if not self.num_gpus >= 0:
            raise ValueError(f"num_gpus must not be negative, got {self.num_gpus}")
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                f"the address {self.address!r} is one of Ray Client; start the run on a machine of the cluster, "
                'which sees the folder of the run, and use "auto"'
            )


def ray_module() -> Any:
    """Import Ray, which reports to its makers unless told not to before a cluster is started.

    Whoever wants it to sets RAY_USAGE_STATS_ENABLED=1.

    Raises:
        MissingDependencyError: Ray Data is not installed.
    """
    os.environ.setdefault(USAGE_SWITCH, "0")
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise MissingDependencyError(
                f"running on a cluster needs {package}; run: pip install 'mobile-sam[bulk-ray]'", name=package
            )
    return import_module("ray")


@contextmanager
def joined(options: RayOptions) -> Iterator[Any]:
    """Join a cluster, or start one, for as long as the block lasts; gives the module `ray`.

    A process that has joined one already stays with it, before and after.

    Raises:
        MissingDependencyError: Ray Data is not installed.
        ValueError: there is no cluster at the address.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    started: dict[str, Any] = {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    with _signals_kept():
        try:
            _check_reachable(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(started if address == "local" else {}),
            )
        except OSError as error:  # ConnectionError is one, and so is a name that does not resolve
            raise ValueError(
                f"no Ray cluster answers at {address!r} ({error}); run `ray start --head` on one machine and "
                "`ray start --address HOST:6379` on the others, or leave the address out to start one here"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect once, since `ray.init` tries for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_WITHIN_S).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what signals do, which `ray.init` would change: SIGTERM has to end a run in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def quiet_context() -> Any:
    """Give settings of Ray Data for work that takes long, on machines that come and go, without a word.

    A dataset is given up by default when nothing was finished for half an hour, as may be with slow work or with no
    node left, or when a single actor dies while it starts.
    """
    context = import_module("ray.data").DataContext.get_current().copy()
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # says at each end that there is one
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that there are no bars
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = MAX_START_DEATHS
    return context


def choose_pool(options: RayOptions, nodes: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Choose how many actors there are at least, at first and at most.

    Args:
        options: what was asked for.
        nodes: as `ray.nodes()` gives them.

    Raises:
        ValueError: no node has room for one.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    num_fitting = sum(_num_fitting(options, each) for each in resources)
    if num_fitting == 0:
        there = ", ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in resources)
        raise ValueError(
            f"no node of the Ray cluster has {options.num_cpus:g} CPUs and {options.num_gpus:g} GPUs for a worker; "
            f"the nodes have {there or 'gone'}"
        )
    most = options.max_actors or max(num_fitting, options.min_actors)
    return options.min_actors, max(options.min_actors, min(num_fitting, most)), most


def _num_fitting(options: RayOptions, resources: dict[str, float]) -> int:
    by_cpus = int(resources.get("CPU", 0) / options.num_cpus)
    return min(by_cpus, int(resources.get("GPU", 0) / options.num_gpus)) if options.num_gpus else by_cpus
