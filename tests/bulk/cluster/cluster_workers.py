"""Workers for tests on a cluster, in a module of their own since the actors' processes import it."""

import errno
import os
import platform
import signal
import time
from pathlib import Path

from mobile_sam.bulk.items import Done, Failed, Report, RunStoppedError
from mobile_sam.core.errors import MissingDependencyError


class FakeWorker:
    """Does with a picture what its name says, and leaves a file for each time it was done, with the process in it."""

    def __init__(self, settings) -> None:
        self._folder = Path(settings.out)

    def run(self, batches, tell, is_stopping=lambda: False) -> None:
        for batch in batches:
            for item in batch.items:
                if is_stopping():
                    return
                tell(self._do(batch.number, item))
            tell(Report(batch.number, is_last=True))

    def _do(self, number, item) -> Report:
        kind = item.file_name.split("-")[0]
        if kind == "slow":
            time.sleep(0.1)
        elif kind == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        elif kind == "gone":
            raise RunStoppedError("the source is gone")
        elif kind == "broken":
            return Report(number, failed=(Failed(item.id, "unreadable picture", "it is broken"),))
        (self._folder / f"{item.id}.{os.getpid()}.{time.time_ns()}.done").touch()
        return Report(number, done=(Done(item.id, num_masks=item.id % 7),))


class TwoArgumentsError(Exception):
    """Cannot be read from a pickle, as it happens to exceptions with arguments of their own."""

    def __init__(self, number, text) -> None:
        super().__init__(f"{number}: {text}")


def lacks_a_package(settings):
    raise MissingDependencyError("this engine needs nothing; run: pip install nothing", name="nothing")


def has_a_strange_error(settings):
    raise TwoArgumentsError(17, f"of {platform.node()}")
