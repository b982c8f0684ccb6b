"""Pictures in and out: whatever Pillow reads as 8-bit RGB, and arrays as files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import ImageReadError, ImageTooLargeError
from mobile_sam.core.files import atomic_path, check_writable
from mobile_sam.core.pixels import bands_of_rows, over_white, to_rgb_uint8

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]"

MAX_PIXELS = 178_956_970  # where Pillow, too, takes a file for a decompression bomb: 512 MiB of RGB

# What Pillow's decoders were seen to raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_warning_filters = threading.Lock()  # the interpreter's warning filters are one list for all threads


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, upright.

    Files and Pillow images of every mode are read: grey, palette, CMYK, 16-bit and float by the rules in
    `mobile_sam.core.pixels`, which also lay transparent pixels over white. The camera's orientation (EXIF) is applied;
    colour profiles are not. Of several frames the first is read. Size is checked in the header, before decoding.

    Args:
        source: path, encoded bytes, open binary file, Pillow image, or (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) array.
            Arrays are taken as RGB; one from `cv2.imread` is BGR, so pass `array[..., ::-1]`. URLs are not fetched.
        max_pixels: refuse pictures with more than this; does not apply to arrays, which are in memory already.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous; an array that is so already is returned itself, not copied.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if it is a folder, empty, no image, damaged, or too large (ImageTooLargeError). It is a
            ValueError.
        ValueError: if an array has another shape or dtype, or the source is of another type.
    """
    if isinstance(source, np.ndarray):
        return to_rgb_uint8(source)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _decoded(source, "the Pillow image", max_pixels)
    opened: AbstractContextManager[BinaryIO]
    if isinstance(source, bytes):
        name, opened = f"the {len(source)} bytes", _stream(io.BytesIO(source))
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        _require_file(name)
        opened = open(name, "rb")  # noqa: SIM115 - closed below
    elif hasattr(source, "read"):
        name, opened = str(getattr(source, "name", "the stream")), _stream(source)
    else:
        raise ValueError(f"source must be a path, bytes, binary file, Pillow image or array, got {type(source)}")
    with opened as stream, _opened(stream, name) as image:
        return _decoded(image, name, max_pixels)


def write_image(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write a picture or a mask in the format that the suffix names, whole or not at all.

    Suffixes: .png, .bmp, .tif and .tiff keep every value; .jpg and .jpeg do not (quality 95); .webp keeps masks, grey
    pictures and pictures with opacity exactly and stores RGB at quality 95.

    Args:
        path: file to write or replace; its folder must exist.
        array: (H, W) bool as 0 and 255, (H, W) uint8 grey, (H, W, 3) uint8 RGB, or (H, W, 4) uint8 RGB and opacity.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the suffix is unknown, or the array has a shape, dtype or size that the format cannot hold.
    """
    array = np.asarray(array)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8)
    if not is_image or array.dtype not in (np.bool_, np.uint8) or array.size == 0:
        raise ValueError(
            f"array must be (H, W) bool or (H, W), (H, W, 3) or (H, W, 4) uint8, got {array.shape} {array.dtype}"
        )
    has_opacity = array.ndim == 3 and array.shape[2] == 4
    check_image_path(path, has_opacity=has_opacity, size_hw=(array.shape[0], array.shape[1]))
    pixels = np.where(array, np.uint8(255), np.uint8(0)) if array.dtype == np.bool_ else array
    encoded = _encoded(np.ascontiguousarray(pixels), _file_format(Path(path)))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def _encoded(pixels: NDArray[np.uint8], file_format: _FileFormat) -> memoryview:
    """Encode in memory: where Pillow itself writes to a disk that is full, the reason gets lost."""
    if file_format.name == "PNG":
        return _encoded_png(pixels)
    from PIL import Image

    is_lossless_webp = file_format.name == "WEBP" and (pixels.ndim == 2 or pixels.shape[2] == 4)
    options = _LOSSLESS_WEBP if is_lossless_webp else file_format.options
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=file_format.name, **options)
    return buffer.getbuffer()


def _encoded_png(pixels: NDArray[np.uint8]) -> memoryview:
    """Encode as PNG with one filter and run lengths, since filtered photographs hold little else to find.

    Of 3840 x 2160 in 72 ms, where Pillow, trying all filters at its level 3, takes 216 ms for 13 % more bytes; other
    photographs came out 6 % smaller to 7 % larger, masks and cut-outs smaller, flat graphics several times larger.
    """
    import cv2

    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)  # type: ignore[assignment]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older ones take a filter as fast
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    is_done, encoded = cv2.imencode(".png", pixels, options)
    assert is_done
    return encoded.data


@dataclass(frozen=True)
class _FileFormat:
    name: str  # as Pillow calls it
    max_side: int = 2**31 - 1  # pixels
    holds_opacity: bool = True
    options: dict[str, Any] = field(default_factory=dict)


_LOSSLESS_WEBP = {"lossless": True, "exact": True, "method": 0, "quality": 0}
"""The least effort: a cut-out of 3840 x 2160 is written in 0.24 s, by default in 2.2 s for 23 % fewer bytes. Pictures
with losses come out 1 % larger than by default."""
_JPEG = _FileFormat("JPEG", max_side=65_500, holds_opacity=False, options={"quality": 95})
_TIFF = _FileFormat("TIFF", options={"compression": "tiff_lzw", "tiffinfo": {317: 2}})  # 317: differences
_FORMATS = {
    ".png": _FileFormat("PNG", max_side=1_000_000),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _FileFormat("WEBP", max_side=16_383, options={"quality": 95, "method": 0}),
    ".bmp": _FileFormat("BMP", holds_opacity=False),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}


def check_image_path(
    path: str | os.PathLike[str], *, has_opacity: bool = False, size_hw: tuple[int, int] | None = None
) -> None:
    """Find out whether `write_image` could write here, before doing the work whose result it is.

    Args:
        path: as for `write_image`.
        has_opacity: whether the picture will be (H, W, 4).
        size_hw: its height and width, if they are known.

    Raises:
        OSError: if the folder does not exist or nothing may be written there, or `path` is a folder.
        ValueError: if the suffix is unknown, or the format holds no opacity or no picture of this size.
    """
    target = Path(path)
    file_format = _file_format(target)
    if has_opacity and not file_format.holds_opacity:
        raise ValueError(f"cannot write {target}: {file_format.name} holds no opacity; use .png, .webp or .tif")
    if size_hw is not None and max(size_hw) > file_format.max_side:
        raise ValueError(
            f"cannot write {target}: {file_format.name} holds at most {file_format.max_side} pixels a side,"
            f" got {size_hw} (H, W); use .tif"
        )
    check_writable(target)


def _file_format(path: Path) -> _FileFormat:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"cannot write {path}: the suffix {path.suffix!r} names no known format; use one of {', '.join(_FORMATS)}"
        ) from None


def _stream(stream: BinaryIO) -> nullcontext[BinaryIO]:
    """Wrap a stream that is the caller's to close."""
    return nullcontext(stream)


def _require_file(name: str) -> None:
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", name):  # a Path makes one slash of two
        raise ImageReadError(f"{name} is a URL, which is not fetched; download it and pass the file or its bytes")
    if os.path.isdir(name):
        raise ImageReadError(f"{name} is a folder; pass one picture inside it")
    if not os.path.exists(name):
        raise FileNotFoundError(f"no picture at {name} (seen from {os.getcwd()}); check the spelling of the path")
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        raise ImageReadError(f"{name} is empty (0 bytes); was it copied or downloaded to the end?")


def _opened(stream: BinaryIO, name: str) -> Image.Image:
    """Open the picture behind a stream with only its header read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` decides instead
            image = Image.open(stream)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} is too large: {error} To read it, raise both max_pixels and PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{name} is no picture in a format that Pillow knows, or its header is damaged") from error
    except _DECODE_ERRORS as error:
        raise ImageReadError(f"{name} cannot be read as a picture: {error}") from error
    return image


def _decoded(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a Pillow image of any mode, upright."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} pixels, more than the {max_pixels} allowed; shrink it or raise max_pixels"
        )
    if width * height == 0:
        raise ImageReadError(f"{name} has no pixels: {width} x {height}")
    try:
        image.load()
        return _upright_rgb(image)
    except ImageReadError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageReadError(
            f"{name} is damaged, cut short, or of a kind without a rule (mode {image.mode}): {error}"
        ) from error


def _upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, turned as the orientation tag says.

    Bands are converted straight into their place, so that beside Pillow's own copy there is only the result.
    """
    width, height = image.size
    orientation = exif_orientation(image)
    rgb = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    stored = _as_stored(rgb, orientation)  # (height, width, 3)
    if image.mode == "F" or image.mode.startswith("I"):
        stored[:] = to_rgb_uint8(_deep_values(image))
        return rgb
    mode = "RGBA" if image.has_transparency_data else "RGB"
    for band in bands_of_rows(height, width * 4):
        strip = np.asarray(image.crop((0, band.start, width, band.stop)).convert(mode))  # (rows, width, 3 or 4)
        stored[band] = over_white(strip) if mode == "RGBA" else strip
    return rgb


def exif_orientation(image: Image.Image) -> int:
    """Tell how the camera was held: 1 to 8, as in EXIF, from 5 on sideways; 1 (upright) where nothing sound is said."""
    from PIL import ExifTags

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS:
        return 1  # damaged metadata; the picture itself is whole
    return orientation if orientation in range(1, 9) else 1


def _as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """See an upright picture (H, W, 3) as it lies in the file: a view with rows, columns or both turned."""
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    rows_step = -1 if orientation in (3, 4, 6, 7) else 1
    columns_step = -1 if orientation in (2, 3, 7, 8) else 1
    return upright[::rows_step, ::columns_step]


def _deep_values(image: Image.Image) -> NDArray[Any]:
    """(H, W) of a picture of more than 8 bits: uint16, or float for what is not in that range."""
    values = np.asarray(image)
    if values.dtype.kind != "i":
        return values
    is_uint16 = values.min() >= 0 and values.max() <= 65_535
    return values.astype(np.uint16 if is_uint16 else np.float64)
