"""Tars of webdataset and SA-1B, on this machine or at a URL: pictures by their place in the tar."""

from __future__ import annotations

from collections.abc import Iterator

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, Part, file_part
from mobile_sam.bulk.sources.remote import open_remote, reaching
from mobile_sam.bulk.sources.retrying import retried
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.records import OnProblem, Problem
from mobile_sam.data.tar_index import index_tar
from mobile_sam.data.tar_members import COMPRESSED, TarDamageError, split_member_name, tar_members

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
TAR_SUFFIXES = (".tar", *COMPRESSED_SUFFIXES)
_BLOCK_BYTES = 1 << 18  # a header of 512 bytes is wanted, mostly: more would read the pictures as well


def is_tar_name(path: str) -> bool:
    """Tell a tar by its name; compressed ones are told too, to be refused."""
    return file_part(path).lower().endswith(TAR_SUFFIXES)


def takes(named: Named) -> bool:
    """Tell whether this is a tar."""
    return named.form == "file" and is_tar_name(named.path)


def roots(named: Named) -> Iterator[str]:
    """Name the tar."""
    if not named.is_remote:
        yield named.path


def parts(named: Named) -> Iterator[Part]:
    """Take the tar as one part.

    Raises:
        ValueError: it is compressed, by its name.
    """
    if file_part(named.path).lower().endswith(COMPRESSED_SUFFIXES):
        raise ValueError(f"{named.path} is compressed, so that no picture in it can be read alone; unpack it first")
    yield Part(lambda on_problem: _list_pictures(named, on_problem), tar=named.identity)


def _list_pictures(named: Named, on_problem: OnProblem) -> Iterator[Listed]:
    spans = _remote_spans if named.is_remote else _local_spans
    try:
        for key, suffix, start, size_bytes in spans(named.path, on_problem):
            place = Place(named.path, start, size_bytes)
            yield listed(key + suffix, place, f"{named.identity}#{start}", key_name=key)
    except FileNotFoundError as error:
        on_problem(Problem("missing tar", named.path, str(error)))
    except (OSError, ValueError) as error:  # ValueError: compressed, whatever its name
        on_problem(Problem("unreadable tar", named.path, str(error)))


def _local_spans(path: str, on_problem: OnProblem) -> Iterator[tuple[str, str, int, int]]:
    """Key, suffix, start and size in bytes of each picture."""
    index = index_tar(path)
    for problem in index.problems:
        on_problem(problem)
    suffixes = (PICTURE_SUFFIXES[number] for number in index.suffix_numbers)
    for key, suffix, (start, size_bytes) in zip(index.keys, suffixes, index.picture_spans.tolist(), strict=True):
        yield key, suffix, start, size_bytes


def _remote_spans(url: str, on_problem: OnProblem) -> Iterator[tuple[str, str, int, int]]:
    problems, spans = retried(lambda: _read_remote_headers(url))
    for problem in problems:
        on_problem(problem)
    for key, (suffix, start, size_bytes) in spans.items():
        yield key, suffix, start, size_bytes


def _read_remote_headers(url: str) -> tuple[list[Problem], dict[str, tuple[str, int, int]]]:
    problems: list[Problem] = []
    spans: dict[str, tuple[str, int, int]] = {}
    with open_remote(url, _BLOCK_BYTES) as file:
        if not file.seekable():
            raise ValueError(f"{url} cannot be read in parts, its server does not do that; download it first")
        with reaching(url):
            start_bytes = file.read(8)
            file.seek(0)
        if any(start_bytes.startswith(mark) for mark in COMPRESSED):
            raise ValueError(f"{url} is compressed, so that no picture in it can be read alone; unpack it first")
        try:
            with reaching(url):
                for member in tar_members(file, file.size):
                    key, extension = split_member_name(member.name)
                    if key is None or f".{extension}" not in PICTURE_SUFFIXES:
                        continue
                    if key in spans:
                        problems.append(Problem("repeated key", key, f"comes more than once in {url}; the first stays"))
                    else:
                        spans[key] = f".{extension}", member.offset_data, member.size
        except OSError as error:
            damage = error.__cause__
            if not isinstance(damage, TarDamageError) or isinstance(damage.__cause__, OSError):
                raise
            message = f"{damage}; its {len(spans)} pictures before that are used; was it uploaded to the end?"
            problems.append(Problem(damage.kind, url, message))
    return problems, spans
