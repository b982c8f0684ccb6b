"""A worker process as an object: starts worker.py with another interpreter and exchanges JSON lines with it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

WORKER = Path(__file__).resolve().parent / "worker.py"


class RemoteWorker:
    """One variant in a process of its own; use as a context manager so that the process ends.

    Args:
        variant: original, onnxruntime, torch, ...
        python: interpreter of the environment that has the variant.
        options: further arguments of worker.py.
    """

    def __init__(self, variant: str, python: str, options: Sequence[str] = ()) -> None:
        self.variant = variant
        self.started = time.perf_counter()
        command = [python, "-W", "ignore", str(WORKER), "--variant", variant, *options]
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONPATH"
        }  # may name the other's
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"command": command, **fields}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(f"the {self.variant} worker ended at `{command}` with code {code}; see its stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds_since_start(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def __enter__(self) -> RemoteWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # the end of its input ends the worker
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
