"""Which files the server opens. Pillow knows more formats, and hands some to other programs, PostScript for one."""

from __future__ import annotations

import re

from mobile_sam.core.errors import ImageReadError

FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb".{4}ftypavi[fs]",
}
"""By name, how files of it begin."""

_BEGINNINGS = re.compile(b"|".join(FORMATS.values()), re.DOTALL)


def require_known_format(picture: bytes) -> None:
    """Refuse what does not begin as a file of one of FORMATS.

    Raises:
        ImageReadError: it does not.
    """
    if _BEGINNINGS.match(picture) is None:
        *most, last = FORMATS
        raise ImageReadError(f"the {len(picture)} bytes are no {', '.join(most)} or {last} file")
