"""How outputs are called after pictures, so that each file system and tool can have the name.

A key is the way of a picture within its source, without suffix. What Windows forbids in a name, control characters and
bytes that are no UTF-8 are written as %XX, a byte each; a "%" of the name itself is written as %25 where two
hexadecimal digits follow, so that it is not taken for one of these. Parts that would be too long end in a hash.
"""

from __future__ import annotations

import hashlib
import os
import re

from mobile_sam.bulk.items import Listed, Place

MAX_PART_BYTES = 200
"""Of each part of a key: file systems have 255, of which outputs need some for suffixes and temporary names."""

_DEVICES = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])"  # Windows opens these, whatever the folder and the suffix
_FORBIDDEN = re.compile(
    rf'[\x00-\x1f\x7f-\x9f<>:"|?*\\\ud800-\udfff]|%(?=[0-9A-Fa-f]{{2}})|^(?={_DEVICES}(?:\.|$)).', re.I
)
_UNUSUAL = re.compile(
    rf'[\x00-\x1f\x7f-\x9f<>:"|?*\\%\ud800-\udfff]|[. ](?:/|$)|(?:^|/)(?:/|$)|(?:^|/){_DEVICES}(?:[./]|$)', re.I
)
_NO_WAY_DOWN = re.compile(r"\./|^/|//|\.$")  # or a part that ends in a dot
_UNDECODED = re.compile(r"[\ud800-\udfff]")


def listed(
    name: str, place: Place, identity: str, source_id: int | None = None, *, key_name: str | None = None
) -> Listed:
    """Make an entry of the listing.

    Args:
        name: way of the picture's file within its source, parts divided by "/", as the operating system names it.
        place: where it is.
        identity: as in `Listed`.
        source_id: as in `Listed`.
        key_name: what the key is made of; by default `name` without suffix.
    """
    return Listed(key_of(os.path.splitext(name)[0] if key_name is None else key_name), file_name_of(name), place,
                  identity, source_id)  # fmt: skip


def key_of(name: str) -> str:
    """Make a key of a way within a source, without suffix.

    >>> key_of("2024/cat 1"), key_of('a<b>/c:d.'), key_of("../100%/50%25"), key_of("caf\\udce9"), key_of("nul.x")
    ('2024/cat 1', 'a%3Cb%3E/c%3Ad%2E', '100%/50%2525', 'caf%E9', '%6Eul.x')
    """
    is_short = len(name) <= (MAX_PART_BYTES if name.isascii() else MAX_PART_BYTES // 4)  # 4 bytes a character at most
    if is_short and _UNUSUAL.search(name) is None:
        return name
    return "/".join(map(_safe_part, _parts(name))) or "picture"


def file_name_of(name: str) -> str:
    """Make a file's name valid UTF-8, changing nothing else but what leads out of a folder.

    >>> file_name_of("./a?/caf\\udce9.jpg")
    'a?/caf%E9.jpg'
    """
    if name.isascii() and _NO_WAY_DOWN.search(name) is None:
        return name
    return _UNDECODED.sub(_percent, "/".join(_parts(name)))


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _percent(found: re.Match[str]) -> str:
    text = found.group()
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which names on Windows may hold
        content = text.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in content)


def _safe_part(part: str) -> str:
    kept = part.rstrip(". ")
    trailing = "".join(f"%{ord(character):02X}" for character in part[len(kept) :])
    content = (_FORBIDDEN.sub(_percent, kept) + trailing).encode()
    if len(content) <= MAX_PART_BYTES:
        return content.decode()
    end = "-" + hashlib.blake2b(content, digest_size=8).hexdigest()
    return content[: MAX_PART_BYTES - len(end)].decode("utf-8", "ignore") + end
