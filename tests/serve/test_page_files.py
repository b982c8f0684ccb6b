import re

import pytest

from mobile_sam.core.weights import bundled_folder
from mobile_sam.serve import page_files
from mobile_sam.serve.page_files import CONTENT_SECURITY_POLICY, HEADERS, Page


@pytest.fixture
def built(tmp_path):
    """A built page with a file of each kind."""
    folder = tmp_path / "page"
    for name in (
        "index.html", "assets/main-1a2b.js", "assets/main-1a2b.css", "ort/ort.wasm", "ort/ort.mjs", "examples/cat.jpg",
        "manifest.webmanifest", "service_worker.js", "icons/icon.svg",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def page(built):
    return Page(built, bundled_folder())


@pytest.mark.parametrize(
    ("url_path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/assets/main-1a2b.js", "text/javascript; charset=utf-8"),
        ("/assets/main-1a2b.css", "text/css; charset=utf-8"),
        ("/ort/ort.wasm", "application/wasm"),  # else browsers refuse to compile it while it arrives
        ("/ort/ort.mjs", "text/javascript; charset=utf-8"),  # else browsers refuse to import it
        ("/examples/cat.jpg", "image/jpeg"),
        ("/manifest.webmanifest", "application/manifest+json"),
        ("/icons/icon.svg", "image/svg+xml"),
        ("/models/encoder.onnx", "application/octet-stream"),
        ("/models/mobile_sam.safetensors", "application/octet-stream"),
        ("models/decoder.onnx", "application/octet-stream"),
    ],
)
def test_each_file_of_the_page_has_its_content_type(page, url_path, content_type):
    assert page.find(url_path).content_type == content_type


def test_models_are_those_of_the_package_and_no_others(page):
    models = {url: file.path for url, file in page.files.items() if url.startswith("models/")}
    names = ["decoder.onnx", "encoder.onnx", "mobile_sam.safetensors"]
    assert models == {f"models/{name}": bundled_folder() / name for name in names}
    assert sum(path.stat().st_size for path in models.values()) < 45_000_000


@pytest.mark.parametrize(
    "url_path",
    [
        "/../secret.txt", "/assets/../../secret.txt", "//etc/passwd", "/etc/passwd", "..", ".", "/.", "/./index.html",
        "/assets", "/assets/", "/assets/main-1a2b.js/", "/index.html\0", "/\0", "/models/../models/encoder.onnx",
        "/..\\secret.txt", "/assets\\main-1a2b.js", "/models/encoder_any.onnx", "/INDEX.HTML", "/.git/config", "/.env",
    ],
)  # fmt: skip
def test_what_is_not_of_the_page_does_not_exist(page, built, url_path):
    (built.parent / "secret.txt").write_text("secret")
    (built / ".env").write_text("secret")
    assert page.find(url_path) is None


def test_links_lead_nowhere_outside_the_page(built):
    (built.parent / "secret.txt").write_text("secret")
    (built.parent / "elsewhere").mkdir()
    (built.parent / "elsewhere" / "more.txt").write_text("secret")
    (built / "file.txt").symlink_to(built.parent / "secret.txt")
    (built / "folder").symlink_to(built.parent / "elsewhere")
    (built / "round").symlink_to(built)
    (built / "inside.html").symlink_to(built / "index.html")
    page = Page(built, bundled_folder())
    outside = ["/file.txt", "/folder/more.txt", "/round/index.html"]
    assert [page.find(url_path) for url_path in outside] == [None, None, None]
    assert page.find("/inside.html").path.read_text() == "index.html"


def test_only_files_named_by_their_content_are_kept_without_asking(page):
    kept = {url for url, file in page.files.items() if "immutable" in file.cache_control}
    assert kept == {"assets/main-1a2b.js", "assets/main-1a2b.css"}
    assert {page.find(url).cache_control for url in set(page.files) - kept} == {"no-cache"}


def test_a_file_written_anew_has_another_etag(page):
    file = page.find("/")
    before = file.etag(file.path.stat())
    file.path.write_text("longer than before")
    after = file.etag(file.path.stat())
    assert before != after
    assert re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', before)


def test_a_page_that_is_not_built_says_how_to_build_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not built.*`make web`.*pip install"):
        Page(tmp_path, bundled_folder())


def test_a_package_without_its_models_says_so(built, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"encoder\.onnx.*install the package anew"):
        Page(built, tmp_path)


def test_sizes_are_counted_by_kind(page, built):
    sizes = page.size_bytes()
    assert sizes["runtime"] == len("ort/ort.wasm") + len("ort/ort.mjs")
    assert sizes["examples"] == len("examples/cat.jpg")
    models = [bundled_folder() / name for name in page_files.MODEL_FILES]
    assert sizes["models"] == sum(path.stat().st_size for path in models)
    assert sum(sizes.values()) == sum(file.path.stat().st_size for file in page.files.values())


def test_headers_isolate_the_page_and_allow_no_foreign_code():
    assert HEADERS["Cross-Origin-Opener-Policy"] == "same-origin"
    assert HEADERS["Cross-Origin-Embedder-Policy"] == "require-corp"
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["default-src"] == "'self'"
    assert "'unsafe-inline'" not in CONTENT_SECURITY_POLICY
    assert "'unsafe-eval'" not in CONTENT_SECURITY_POLICY.replace("'wasm-unsafe-eval'", "")
    assert all("\n" not in value for value in HEADERS.values())
