"""`mobile-sam serve` as a process of its own, for benchmarks: started, watched, killed, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

BESIDE_PYTHON = Path(sys.executable).parent / "mobile-sam"
START_S, STOP_S = 60.0, 60.0  # after which a server that does not start, or stop, is an error


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server on a free loopback port, in a folder of its own, which is also where it would put temporary files.

    Args:
        arguments: further options of the command.
        command: the `mobile-sam` to run.
    """

    def __init__(self, arguments: Sequence[str] = (), command: str | Path = BESIDE_PYTHON) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="serve_benchmark_")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [str(command), "serve", "--host", "127.0.0.1", "--port", str(self.port), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        self._folder.cleanup()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it, in a session of its own, and wait until it is ready."""
        environment = {**os.environ, "TMPDIR": str(self._temporary_folder())}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder.name, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it says that it takes work."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> Path:
        """All that it printed, after restarts as well."""
        return Path(self._folder.name) / "server.log"

    def kill(self) -> None:
        """End it without a warning, as the system does where memory runs out."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        process = self.process
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_S)
        self._process = None
        return code

    def rss_mb(self) -> float | None:
        """Resident memory in MB (10^6 bytes); None where there is no /proc, or the process is gone."""
        status = Path(f"/proc/{self._process.pid}/status") if self._process else None
        try:
            lines = status.read_text().splitlines() if status else []
        except OSError:
            return None
        sizes_kib = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        return sizes_kib[0] * 1024 / 1e6 if sizes_kib else None

    def left_behind(self, session: int) -> list[str]:
        """What a server that has ended left: files, and processes of its session (where there is a /proc)."""
        files = [str(path.relative_to(self._folder.name)) for path in Path(self._folder.name).rglob("*")]
        ours = ("server.log", "temporary", "temporary/.ses")  # the last is ONNX Runtime's: the name of a session
        processes = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if int(fields[3]) == session and fields[0] != "Z":
                processes.append(f"process {stat.parent.name}")
        return [name for name in files if name not in ours] + processes

    def metrics(self, token: str | None = None) -> dict[str, float]:
        """Its counters and gauges, by name with labels as they are written."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(f"{self.url}/metrics", timeout=30, headers=headers).raise_for_status()
        found = {}
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                found[name] = float(value)
        return found

    def _temporary_folder(self) -> Path:
        folder = Path(self._folder.name) / "temporary"
        folder.mkdir(exist_ok=True)
        return folder
