"""Pictures that lie somewhere as files: decoded when they are read, or taken as they are."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.images import read_image
from mobile_sam.data.compact import Names
from mobile_sam.data.picture_set import PictureSample, PictureSet, SampleError
from mobile_sam.data.records import Instance, Problem


class StoredPictures(PictureSet):
    """A set whose pictures are encoded files, or parts of files.

    Args:
        name: for people.
        keys: (N,) of the pictures.
        sizes_bytes: (N,) int64, of their encoded files.
        problems: what was wrong with the source.
    """

    keys: Names

    def __init__(
        self, name: str, keys: Names, sizes_bytes: NDArray[np.int64], problems: Sequence[Problem] = ()
    ) -> None:
        self.name = name
        self.keys = keys
        self.sizes_bytes = sizes_bytes
        self.problems = tuple(problems)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of keys and sizes in bytes, in their order."""
        named = hashlib.sha256(self.keys.blobs.content)
        named.update(self.keys.blobs.ends.astype("<i8").tobytes())
        named.update(self.sizes_bytes.astype("<i8").tobytes())
        return named.hexdigest()

    def read(self, index: int, with_instances: bool = False) -> PictureSample:
        """Read a picture, and if it is asked for its annotated objects.

        Raises:
            SampleError: "unreadable picture", "corrupt picture", "missing annotation", "unusable annotation",
                "annotation of another size".
        """
        _, content = self.encoded(index)
        return self.decoded(index, content, with_instances)

    def decoded(self, index: int, content: bytes, with_instances: bool = False) -> PictureSample:
        """Decode what `encoded` gave.

        Raises:
            SampleError: as `read`.
        """
        key = self.keys[index]
        try:
            image = read_image(content)
        except ImageReadError as error:
            raise SampleError(key, "corrupt picture", f"{error} ({self.where(index)})") from error
        height, width, _ = image.shape
        return PictureSample(key, image, self.instances(index, (height, width)) if with_instances else ())

    @abstractmethod
    def encoded(self, index: int) -> tuple[str, bytes]:
        """Read a picture's file as it is: its suffix, such as ".jpg", and its bytes.

        Raises:
            SampleError: "unreadable picture".
        """

    @abstractmethod
    def instances(self, index: int, image_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """Read the annotated objects of a picture of this height and width.

        Raises:
            SampleError: "missing annotation", "unusable annotation", "annotation of another size".
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Say where a picture lies, for messages."""

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> StoredPictures:
        """Keep some of the pictures, in the order given."""


def read_span(path: str, start: int, size_bytes: int, key: str, kind: str) -> bytes:
    """Read a part of a file.

    The file is opened each time, which costs some microseconds: nothing is shared between processes or threads.

    Raises:
        SampleError: of this kind: the file is not there, cannot be read, or ends before.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            content = b"".join(iter(lambda: file.read(size_bytes - file.tell() + start), b""))
    except OSError as error:
        raise SampleError(key, kind, f"cannot be read: {error}") from error
    if len(content) < size_bytes:
        raise SampleError(key, kind, f"{path} ends after {len(content)} of its {size_bytes} bytes; was it changed?")
    return content
