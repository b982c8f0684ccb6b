"""Files and folders at URLs, through fsspec: object stores, HTTP and what else it knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from mobile_sam.bulk.settings import require_bulk
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.data.picture_sources import is_url

_MISSING_STATUS, _FORBIDDEN_STATUS = (404, 410), (401, 403)
_LOCAL_SCHEMES = ("file", "local")


def local_path(source: str) -> str:
    """Turn a URL of a file on this machine into its path; anything else stays as it is."""
    scheme, divider, _ = source.partition("://")
    if not divider or scheme.lower() not in _LOCAL_SCHEMES or "::" in source:
        return source
    return str(filesystem_of(source)[1])


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn whatever an object store or server raises into an OSError that names the URL.

    Raises:
        FileNotFoundError: nothing is there.
        PermissionError: it may not be read.
        OSError: all else.
    """
    try:
        yield
    except MissingDependencyError:
        raise
    except Exception as error:
        raise _as_os_error(error, url) from error


def _as_os_error(error: Exception, url: str) -> OSError:
    chained = [error]  # fsspec hides why a server did not answer behind "not found"
    while (cause := chained[-1].__cause__) is not None and isinstance(cause, Exception):
        chained.append(cause)
    status = next((found for each in chained if isinstance(found := getattr(each, "status", None), int)), None)
    if status in _FORBIDDEN_STATUS or isinstance(error, PermissionError):
        return PermissionError(f"{url} may not be read ({_said(error)}); check the credentials")
    is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError)) and not _is_of_network(chained[-1])
    if status in _MISSING_STATUS or (status is None and is_missing):
        return FileNotFoundError(f"nothing at {url}; check the spelling of the URL")
    return OSError(f"{url} cannot be reached: {_said(chained[-1])}")


def _is_of_network(error: Exception) -> bool:
    kind = type(error)
    return isinstance(error, (ConnectionError, TimeoutError)) or kind.__module__.split(".")[0] in ("aiohttp", "asyncio")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def filesystem_of(url: str) -> tuple[Any, str]:
    """Find the file system of a URL, which fsspec keeps for the next time, and the path in it.

    Raises:
        MissingDependencyError: a package for this kind of URL is not installed.
        ValueError: there is no such kind of URL.
    """
    require_bulk("fsspec", url)
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(url)
    except ImportError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ImportError) else error.name
        package = (missing or "a package of fsspec's").partition(".")[0]
        raise MissingDependencyError(
            f"{url} needs {package} ({error}); run: pip install {package}", name=package
        ) from error
    except ValueError as error:
        raise ValueError(f"{url} is of no known kind: {error}; expected s3://, gs://, https:// or the like") from error
    return filesystem, str(path)


def url_of(path: str, filesystem: Any, url: str) -> str:
    """Write a path of a file system as a URL, with the rest of the chain that the URL it was found from may have."""
    _, divider, rest = url.partition("::")
    return f"{filesystem.unstrip_protocol(path)}{divider}{rest}"


def name_of(url: str) -> str:
    """Name what lies at a URL: server or bucket, path, and the query where the path has no suffix.

    >>> name_of("https://host/a%20b/1.jpg?sign=x"), name_of("s3://bucket/1.jpg"), name_of("https://host/picture?id=2")
    ('host/a b/1.jpg', 'bucket/1.jpg', 'host/picture?id=2')
    """
    url = url.partition("::")[0]
    if not url.lower().startswith(("http:", "https:")):
        return url.partition("://")[2].lstrip("/")
    parts = urlsplit(url)
    has_suffix = "." in parts.path.rpartition("/")[2]
    query = f"?{parts.query}" if parts.query and not has_suffix else ""
    return unquote(f"{parts.netloc}{parts.path}{query}", errors="surrogateescape")


def joined_url(folder: str, name: str) -> str:
    """Join a URL of a folder and a name in it.

    >>> joined_url("s3://bucket/lists/", "../a/1.jpg"), joined_url("zip://lists::s3://b/a.zip", "1.jpg")
    ('s3://bucket/a/1.jpg', 'zip://lists/1.jpg::s3://b/a.zip')
    """
    if is_url(name):
        return name
    first, divider, rest = folder.partition("::")
    scheme, _, path = first.partition("://")
    host, slash, below = path.partition("/")
    done: list[str] = []
    for part in [*below.split("/"), *name.split("/")]:
        if part == "..":
            done = done[:-1]
        elif part not in ("", "."):
            done.append(part)
    root = "/" if slash and not host else ""
    return f"{scheme}://{host}{root}{'/' if host else ''}{'/'.join(done)}{divider}{rest}"


def open_remote(url: str, block_bytes: int) -> Any:
    """Open a file at a URL.

    Args:
        url: of the file.
        block_bytes: what is read at least in one request.

    Raises:
        OSError, FileNotFoundError, PermissionError: as `reaching`.
    """
    filesystem, path = filesystem_of(url)
    with reaching(url):
        return filesystem.open(path, "rb", block_size=block_bytes)


def cat_remote(url: str, start: int = 0, size_bytes: int | None = None) -> bytes:
    """Read a file at a URL, or a part of it.

    Raises:
        OSError, FileNotFoundError, PermissionError: as `reaching`.
    """
    filesystem, path = filesystem_of(url)
    with reaching(url):
        if start == 0 and size_bytes is None:
            return bytes(filesystem.cat_file(path))
        end = None if size_bytes is None else start + size_bytes
        return bytes(filesystem.cat_file(path, start=start, end=end))
