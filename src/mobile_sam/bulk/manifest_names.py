"""Which of very many pictures and keys were there before, with little memory."""

from __future__ import annotations

import hashlib
import sqlite3
import unicodedata
from collections.abc import Iterator

_CACHE_KIB = 32 << 10
_PAGE_NAMES = 1000


def fold(key: str) -> str:
    """Bring keys that name the same file on some system to the same text (Unicode's canonical caseless match).

    >>> fold("Photos/IMG_1") == fold("photos/img_1"), fold("caf\\u00e9") == fold("CAFE\\u0301")
    (True, True)
    """
    if key.isascii():
        return key.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", key).casefold())


class Names:
    """Remembers pictures and keys by 16 bytes each, in a file without a name that goes with this.

    Keys get their final names in two steps, so that no key that is unique among all is changed, whatever the order:
    first all are claimed, then those that came too late get a free one by `rename`.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "" is a temporary file, which memory spills to
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE pictures (hash BLOB PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE keys (hash BLOB PRIMARY KEY, next INTEGER) WITHOUT ROWID",
            "CREATE TABLE late (id INTEGER PRIMARY KEY)",
            "BEGIN",
        ):
            self._database.execute(statement)

    def is_new(self, identity: str) -> bool:
        """Whether a picture was not there before; from now on it was."""
        row = (_hash(identity),)
        return self._database.execute("INSERT OR IGNORE INTO pictures VALUES (?)", row).rowcount == 1

    def claim(self, item_id: int, key: str) -> None:
        """Take a key for an item, or note that it came too late."""
        if not self._take(key):
            self._database.execute("INSERT INTO late VALUES (?)", (item_id,))

    def late(self) -> Iterator[int]:
        """Give the items whose keys were taken, in the order of their ids."""
        last_id = 0
        while rows := self._database.execute(
            "SELECT id FROM late WHERE id > ? ORDER BY id LIMIT ?", (last_id, _PAGE_NAMES)
        ).fetchall():
            last_id = rows[-1][0]
            yield from (item_id for (item_id,) in rows)

    def rename(self, key: str) -> str:
        """Take "key~2", or the first number for which that is free."""
        taken = (_hash(fold(key)),)
        number = self._database.execute("SELECT next FROM keys WHERE hash = ?", taken).fetchone()[0] or 2
        while not self._take(f"{key}~{number}"):
            number += 1
        self._database.execute("UPDATE keys SET next = ? WHERE hash = ?", (number + 1, *taken))
        return f"{key}~{number}"

    def close(self) -> None:
        """Forget all."""
        self._database.close()

    def _take(self, key: str) -> bool:
        row = (_hash(fold(key)),)
        return self._database.execute("INSERT OR IGNORE INTO keys (hash) VALUES (?)", row).rowcount == 1


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
