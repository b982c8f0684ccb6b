"""`mobile-sam demo`: the page in the browser, served from this machine to itself, or written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mobile_sam.serve.page_files import Page


def demo(
    port: Annotated[
        int | None,
        typer.Option(help="Serve on this port; 0 takes any that is free.", show_default="8642, or the next free one"),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the browser.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the page to this folder instead, for any web host to serve.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Cut out objects in the browser: everything runs in the page, no picture leaves this machine.

    The page is served on 127.0.0.1 until Ctrl-C.
    """
    from mobile_sam.serve.page_files import open_page

    page = open_page()
    if save is not None:
        if port is not None or no_browser:
            raise ValueError("--save writes files and serves nothing; leave out --port and --no-browser")
        _save(page, save)
    else:
        _serve(page, port, opens_browser=not no_browser)


def _save(page: Page, folder: Path) -> None:
    from mobile_sam.serve.static_site import HEADERS_FILE, write_static_site

    sizes = write_static_site(page, folder)
    for kind, size_bytes in sizes.items():
        print(f"{kind:10} {size_bytes / 1e6:6.2f} MB")
    print(f"{'all':10} {sum(sizes.values()) / 1e6:6.2f} MB in {len(page.files)} files")
    print(f"wrote {folder}; any web host can serve it over https, {HEADERS_FILE} has the headers to send")


def _serve(page: Page, port: int | None, *, opens_browser: bool) -> None:
    import threading
    import webbrowser

    from mobile_sam.serve.page_server import open_server

    try:
        with open_server(page, port) as server:
            print(f"MobileSAM in the browser: {server.url}\nCtrl-C stops it.", flush=True)
            if opens_browser:
                # in a thread of its own, since a text browser does not return before it is left
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            server.serve_forever()
    except KeyboardInterrupt:
        print("stopped")
