"""How the server runs, as one frozen value; the command line's flags are made from it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

MIB = 1024**2
MIN_CACHE_BYTES = 16 * MIB  # three embeddings, so that what was just encoded can be asked about


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the server.

    Attributes:
        host: address to listen on.
        port: 0 to 65535; 0 lets the system choose.
        engine: see `mobile_sam.engines.make_engine`.
        model: see `make_engine`; None for the bundled weights.
        precision: see `make_engine`.
        workers: pictures encoded at once, all with one cache of embeddings; at least 1.
        num_threads: CPU threads of each worker; 0 for an equal share of the cores.
        max_pixels: of a picture.
        max_body_bytes: of a request.
        max_objects: prompts in a request.
        max_points: points in a prompt.
        max_waiting: pictures that may wait to be encoded; more are turned away.
        cache_bytes: that embeddings may take, 4 MiB each; at least MIN_CACHE_BYTES.
        timeout_s: of a request, in seconds.
        shutdown_s: how long work that was taken may go on after the server was told to stop, in seconds.
        token: bearer token that requests must carry; None for none, which only a loopback address may do without.
        cors_origins: origins whose pages may use the server, such as "https://example.org".

    Raises:
        ValueError: a value out of its range, or no token on an address that others can reach.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    engine: str = "auto"
    model: str | None = None
    precision: str | None = None
    workers: int = 1
    num_threads: int = 0
    max_pixels: int = 50_000_000
    max_body_bytes: int = 32 * MIB
    max_objects: int = 64
    max_points: int = 64
    max_waiting: int = 32
    cache_bytes: int = 1024 * MIB
    timeout_s: float = 60.0
    shutdown_s: float = 30.0
    token: str | None = None
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE_NUMBERS.items():
            _check_whole_number(name, getattr(self, name), least, most)
        for name in ("timeout_s", "shutdown_s"):
            _check_seconds(name, getattr(self, name))
        if self.timeout_s == 0:
            raise ValueError("timeout_s must be more than 0 seconds, got 0, by which no request could be answered")
        if not self.host:
            raise ValueError("host must be an address or a name, got ''; use 127.0.0.1 for this machine alone")
        _check_token(self.token)
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, so a token is needed; pass one, or use the "
                "host 127.0.0.1"
            )
        object.__setattr__(self, "cors_origins", _checked_origins(self.cors_origins))


def is_loopback(host: str) -> bool:
    """Tell whether an address or name can be reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_WHOLE_NUMBERS: dict[str, tuple[int, float]] = {
    "port": (0, 65_535),
    "workers": (1, 256),
    "num_threads": (0, 1024),
    "max_pixels": (1, math.inf),
    "max_body_bytes": (1, math.inf),
    "max_objects": (1, math.inf),
    "max_points": (1, math.inf),
    "max_waiting": (1, math.inf),
    "cache_bytes": (MIN_CACHE_BYTES, math.inf),
}
"""The least and the greatest value of each."""


def _check_whole_number(name: str, value: object, least: int, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f"{least} to {most:g}" if most < math.inf else f"at least {least}"
        raise ValueError(f"{name} must be a whole number, {limit}, got {value!r}")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, got {value!r}")


def _check_token(token: str | None) -> None:
    """Check that a token can be sent in a header; the message does not show it."""
    if token is None:
        return
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            "token must be at least one printable ASCII character, without spaces, since it is sent in a header; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


def _checked_origins(origins: object) -> tuple[str, ...]:
    if not isinstance(origins, (tuple, list)) or not all(isinstance(one, str) and one for one in origins):
        raise ValueError(f"cors_origins must be origins such as ('https://example.org',), got {origins!r}")
    return tuple(origins)
