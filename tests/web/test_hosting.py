"""Both ways to host the page: with its headers at the root, and by any host, below a path, without them."""

import gzip

import pytest
from page_driver import running

from mobile_sam.serve.page_files import CONTENT_SECURITY_POLICY
from mobile_sam.serve.page_server import PageServer

OWN_CODE_LIMIT_BYTES = 300_000
MODEL_LIMIT_BYTES = 45_000_000
HAS_THREADS = "() => typeof SharedArrayBuffer === 'function' && crossOriginIsolated"


@pytest.fixture(scope="module", params=["headers", "plain"])
def hosted(request, new_visit, site_url, plain_url):
    """The page in a fresh profile, and where."""
    url = {"headers": site_url, "plain": plain_url}[request.param]
    visit = new_visit(url)
    visit.tab.wait_for_function(HAS_THREADS)  # a host without headers: after it reloaded itself once
    visit.wait_until_ready()
    return visit, url


def test_the_page_is_isolated_and_has_threads(hosted):
    visit, _ = hosted
    assert visit.tab.evaluate("crossOriginIsolated")
    runtime = visit.state()["runtime"]
    cores = visit.tab.evaluate("navigator.hardwareConcurrency")
    assert runtime["where"] == "wasm"
    assert f"{min(4, cores)} thread" in runtime["text"]


def test_all_that_is_asked_for_is_on_the_pages_own_host(hosted):
    visit, url = hosted
    visit.watch.check()
    names = visit.tab.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert [name for name in names if not name.startswith(url)] == []


def test_the_page_can_be_installed(hosted):
    visit, url = hosted
    link = visit.tab.evaluate("document.querySelector('link[rel=manifest]').href")
    manifest = visit.tab.request.get(link).json()
    assert {"name", "icons", "display"} <= set(manifest)
    sizes = {icon["sizes"] for icon in manifest["icons"]}
    assert {"192x192", "512x512"} <= sizes
    for icon in manifest["icons"]:
        assert visit.tab.request.get(url + icon["src"]).ok
    visit.tab.wait_for_function("() => navigator.serviceWorker.controller !== null")


def test_a_second_visit_works_offline(hosted, tiny):
    visit, _ = hosted
    visit.tab.evaluate("navigator.serviceWorker.ready.then(() => true)")
    visit.tab.context.set_offline(True)
    try:
        visit.tab.reload()
        visit.wait_until_ready()
        assert visit.tab.evaluate("crossOriginIsolated")
        visit.open(tiny)
        visit.click(15, 11)
        assert visit.mask()[11, 15]
    finally:
        visit.tab.context.set_offline(False)


def test_a_visit_works_when_the_host_is_gone(page_files, new_visit):
    """The same without trust in the browser's own notion of being offline."""
    server = PageServer(page_files)
    url = server.url
    with running(server):
        visit = new_visit(url)
        visit.tab.evaluate("navigator.serviceWorker.ready.then(() => true)")
    visit.tab.reload()
    visit.wait_until_ready()
    assert visit.tab.inner_text("#runtime").startswith("WebAssembly")


def test_the_pages_own_code_and_its_model_keep_to_their_limits(page_files):
    """Compressed one by one, as web hosts do; onnxruntime's library and pictures are not the page's own code."""
    own = [
        file.path
        for url, file in page_files.files.items()
        if url.endswith((".html", ".css", ".js", ".json", ".webmanifest"))
        and not url.startswith(("ort/", "assets/ort"))
    ]
    assert len(own) > 4
    assert sum(len(gzip.compress(path.read_bytes())) for path in own) < OWN_CODE_LIMIT_BYTES
    assert page_files.size_bytes()["models"] < MODEL_LIMIT_BYTES


def test_the_policy_stops_foreign_code(new_visit, site_url):
    """What a fault in the page could otherwise be used for."""
    visit = new_visit(waits=False)
    visit.tab.goto(site_url)
    assert "'unsafe-inline'" not in CONTENT_SECURITY_POLICY
    blocked = visit.tab.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.isHacked = true";
            document.head.append(script);
            setTimeout(() => resolve("nothing"), 2000);
        })"""
    )
    assert blocked == "script-src-elem"
    assert visit.tab.evaluate("window.isHacked") is None
    visit.tab.context.close()
