"""`mobile-sam serve`: the HTTP API and the page, for this machine or for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mobile_sam.cli.model_option import EngineName, ModelName, PrecisionName

if TYPE_CHECKING:
    from mobile_sam.serve.service import SegmentService
    from mobile_sam.serve.settings import ServeSettings

TOKEN_VARIABLE = "MOBILE_SAM_TOKEN"
MIB = 1024**2


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.")] = 8000,
    engine: EngineName = "auto",
    precision: PrecisionName = None,
    model: ModelName = None,
    workers: Annotated[int, typer.Option(help="Pictures encoded at once.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of each worker; 0 for an equal share of the cores.")] = 0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a picture.")] = 50_000_000,
    max_body: Annotated[float, typer.Option(help="Most MiB of a request.")] = 32,
    max_waiting: Annotated[int, typer.Option(help="Pictures that may wait; more are turned away with 429.")] = 32,
    cache: Annotated[float, typer.Option(help="MiB of memory for embeddings, 4 each.")] = 1024,
    timeout: Annotated[float, typer.Option(help="Most seconds of a request.")] = 60.0,
    token: Annotated[
        str | None,
        typer.Option(
            help=f"Requests must carry it as a bearer token. Others can see options; {TOKEN_VARIABLE} is better.",
            envvar=TOKEN_VARIABLE,
            show_envvar=False,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may use the server, as https://example.org. Repeatable."),
    ] = None,
    shutdown: Annotated[float, typer.Option(help="Seconds to finish work in after SIGTERM or Ctrl-C.")] = 30.0,
) -> None:
    """Serve the API and the page until SIGTERM or Ctrl-C, of which a second one stops at once."""
    _require_server()
    from mobile_sam.serve.settings import ServeSettings, is_loopback

    if token is None and not is_loopback(host):
        raise ValueError(
            f"--host {host} can be reached by other machines, which takes a token: set {TOKEN_VARIABLE} or pass "
            "--token, or leave out --host"
        )
    settings = ServeSettings(
        host=host,
        port=port,
        engine=engine,
        model=model,
        precision=precision,
        workers=workers,
        num_threads=threads,
        max_pixels=max_pixels,
        max_body_bytes=round(max_body * MIB),
        max_waiting=max_waiting,
        cache_bytes=round(cache * MIB),
        timeout_s=timeout,
        shutdown_s=shutdown,
        token=token,
        cors_origins=tuple(cors_origin or ()),
    )
    _run(settings)


def _require_server() -> None:
    """Import what only the server needs.

    Raises:
        MissingDependencyError: one is not installed.
    """
    from importlib import import_module

    from mobile_sam.core.errors import MissingDependencyError

    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx"):
        try:
            import_module(name)
        except ImportError as error:
            raise MissingDependencyError(
                f"mobile-sam serve needs {name}; run: pip install 'mobile-sam[serve]'", name=name
            ) from error


def _run(settings: ServeSettings) -> None:
    import logging

    from mobile_sam.serve.http_server import listen, serve, url_of
    from mobile_sam.serve.service import SegmentService

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("mobile_sam.serve").setLevel(logging.INFO)
    with listen(settings.host, settings.port) as listening:
        service = SegmentService.open(settings)
        url = url_of(listening)

        def tell() -> None:
            print(f"mobile-sam serves on {url} ({_describe(service)}); Ctrl-C stops it", flush=True)

        serve(service, listening, tell)


def _describe(service: SegmentService) -> str:
    from mobile_sam.engines import choose_engine

    settings = service.settings
    described = f"engine {service.engine.name}"
    if settings.engine != "auto":
        return described
    chosen, reason = choose_engine(settings.model, None, settings.precision or "fp32")
    return f"{described}: {reason}" if chosen == service.engine.name else described
