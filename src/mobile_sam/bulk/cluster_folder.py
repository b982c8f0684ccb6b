"""What the driver and the actors of a run on a cluster tell each other through the folder that all of them see.

    cluster/here-TOKEN            shows actors that they see the driver's folder, not one of their own machine
    cluster/stop                  actors finish what they have begun and take nothing more
    cluster/begun-NAME-RANDOM     something is worked on, or was when its worker died

Files rather than messages, as they outlive whoever wrote them. Each run makes the folder anew and removes it at its
end.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_SEEN_WITHIN_S = 1.0


@dataclass(frozen=True)
class ClusterFolder:
    """A run's folder for this.

    Attributes:
        path: of the folder.
        token: name of the run, unlike that of any other.
    """

    path: Path
    token: str

    @classmethod
    def make(cls, path: Path) -> ClusterFolder:
        """Make it, as the driver; what a killed run left is removed."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, uuid.uuid4().hex)
        folder._here.touch()
        return folder

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def is_seen(self, within_s: float) -> bool:
        """Whether this machine sees what the driver made; network file systems may take a while to show it."""
        deadline = time.monotonic() + within_s
        while not self._here.exists():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        return True

    def ask_to_stop(self) -> None:
        """Ask all actors to finish what they have begun."""
        self._stop.touch()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody did."""
        return self._stop.exists()

    def count_deaths(self, name: str) -> int:
        """Count the workers that died at something: those that began and did not end."""
        return sum(1 for _ in self.path.glob(f"begun-{name}-*"))

    @contextmanager
    def begun(self, name: str) -> Iterator[None]:
        """Note that something is worked on, for as long as the block lasts; also if it ends with an exception."""
        (self.path / f"begun-{name}-{uuid.uuid4().hex}").touch()
        try:
            yield
        finally:
            for marker in self.path.glob(f"begun-{name}-*"):
                marker.unlink(missing_ok=True)

    @property
    def _here(self) -> Path:
        return self.path / f"here-{self.token}"

    @property
    def _stop(self) -> Path:
        return self.path / "stop"


class StopWatcher:
    """Says whether actors are asked to stop; looks at the disk once a second, however often it is called."""

    def __init__(self, folder: ClusterFolder) -> None:
        self._folder = folder
        self._looked_s = float("-inf")
        self._is_asked = False

    def __call__(self) -> bool:
        now_s = time.monotonic()
        if not self._is_asked and now_s - self._looked_s >= STOP_SEEN_WITHIN_S:
            self._looked_s = now_s
            self._is_asked = self._folder.is_asked_to_stop
        return self._is_asked
