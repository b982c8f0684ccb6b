import pytest

from mobile_sam.core.weights import bundled_folder
from mobile_sam.serve.page_files import HEADERS, Page
from mobile_sam.serve.static_site import headers_text, write_static_site


@pytest.fixture
def page(tmp_path):
    built = tmp_path / "page"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<p>page</p>")
    (built / "assets" / "main-1.js").write_text("1;")
    return Page(built, bundled_folder())


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_every_file_and_the_headers(page, tmp_path):
    target = tmp_path / "sites" / "mine"
    sizes = write_static_site(page, target)
    assert files_below(target) == {
        "index.html", "assets/main-1.js", "models/encoder.onnx", "models/decoder.onnx",
        "models/mobile_sam.safetensors", "_headers", ".nojekyll",
    }  # fmt: skip
    for url, file in page.files.items():
        assert (target / url).read_bytes() == file.path.read_bytes()
    assert sizes == page.size_bytes()


def test_an_empty_folder_is_filled(page, tmp_path, monkeypatch):
    target = tmp_path / "empty"
    target.mkdir()
    monkeypatch.chdir(target)
    write_static_site(page, type(target)("."))
    assert "index.html" in files_below(target)


def test_a_folder_with_something_in_it_is_left_alone(page, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("ten years")
    with pytest.raises(ValueError, match="not an empty folder"):
        write_static_site(page, target)
    assert files_below(target) == {"thesis.txt"}


def test_a_file_is_not_replaced(page, tmp_path):
    target = tmp_path / "thesis.txt"
    target.write_text("ten years")
    with pytest.raises(ValueError, match="not an empty folder"):
        write_static_site(page, target)
    assert target.read_text() == "ten years"


def test_what_cannot_be_finished_is_not_there_at_all(page, tmp_path):
    page.find("/assets/main-1.js").path.unlink()
    with pytest.raises(FileNotFoundError):
        write_static_site(page, tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page"]


def test_the_headers_file_has_a_rule_for_all_and_one_for_what_never_changes():
    """The format of Netlify and Cloudflare Pages: a path, then indented headers; of several rules all apply."""
    rules = {}
    for line in headers_text().splitlines():
        if line.startswith("/"):
            headers = rules[line] = {}
        else:
            assert line.startswith("  ")
            name, _, value = line.strip().partition(": ")
            headers[name] = value
    assert rules["/*"] == HEADERS
    assert set(rules) == {"/*", "/assets/*"}
    assert "immutable" in rules["/assets/*"]["Cache-Control"]
