"""Where pictures come from: files, dropping, pasting, examples; and what is said of those that cannot be read."""

import base64

import numpy as np
import pytest
from PIL import Image

DROP = """([name, type, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
    }
}"""
TO_CLIPBOARD = """async (encoded) => {
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}"""


@pytest.fixture(scope="module")
def modelless(new_visit, site_url):
    """A tab whose model cannot be loaded: pictures are opened all the same, and nobody waits for encoding."""
    visit = new_visit(waits=False)
    visit.tab.route("**/models/*", lambda route: route.abort())
    visit.tab.goto(site_url)
    visit.tab.wait_for_selector("html[data-model=failed]")
    return visit


@pytest.fixture
def empty(modelless):
    if modelless.tab.is_visible("#message-close"):
        modelless.tab.click("#message-close")
    return modelless


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def size_when_open(visit, name):
    """Width and height, once a picture of that name is open."""
    visit.tab.wait_for_function(f"() => window.mobileSam.state().picture?.name === {name!r}")
    picture = visit.state()["picture"]
    return picture["width"], picture["height"]


def test_a_picture_can_be_dropped(empty, portrait):
    empty.tab.evaluate(DROP, ["dropped.png", "image/png", encoded(portrait)])
    assert size_when_open(empty, "dropped.png") == (270, 512)
    assert empty.tab.is_hidden("#drop-veil")


@pytest.mark.parametrize("how", ["keys", "button"])
def test_a_picture_can_be_pasted(empty, how, tmp_path):
    width = {"keys": 30, "button": 40}[how]
    path = tmp_path / "picture.png"
    Image.new("RGB", (width, 20), (200, 30, 30)).save(path)
    empty.tab.bring_to_front()
    empty.tab.evaluate(TO_CLIPBOARD, encoded(path))
    if how == "keys":
        empty.tab.focus("#canvas")
        empty.tab.keyboard.press("Control+V")
    else:
        empty.tab.click("#paste")
    empty.tab.wait_for_function(f"() => window.mobileSam.state().picture?.width === {width}")


def test_an_example_can_be_opened(empty):
    empty.tab.click("#examples")
    empty.tab.click("#examples-dialog [data-testid=example-coffee]")
    width, height = size_when_open(empty, "coffee.jpg")
    assert min(width, height) >= 300
    assert empty.tab.is_hidden("#examples-dialog")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nnothing"),
        ("letter.jpg", b"Dear all,"),
        ("empty.webp", b""),
        ("a<b>.gif", b"GIF89a"),
    ],
)
def test_a_file_that_is_no_picture_gets_a_message(empty, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    empty.tab.set_input_files("#file", path)
    empty.tab.wait_for_selector("#message:visible")
    assert empty.tab.get_attribute("#message", "data-kind") == "error"
    assert f'"{name}" cannot be opened' in empty.tab.inner_text("#message-text")
    empty.tab.click("#message-close")
    assert empty.tab.is_hidden("#message")


def test_a_broken_file_leaves_the_open_picture_and_its_objects(visit, tmp_path):
    visit.click(225, 160)
    mask = visit.mask()
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    visit.tab.set_input_files("#file", path)
    visit.tab.wait_for_selector("#message:visible")
    assert np.array_equal(visit.mask(), mask)


def test_a_photo_taken_with_the_camera_turned_is_upright(empty, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(path, exif=exif)
    empty.tab.set_input_files("#file", path)
    assert size_when_open(empty, "turned.jpg") == (40, 60)


def test_a_very_large_picture_is_made_smaller_and_the_page_says_so(empty, tmp_path):
    path = tmp_path / "wide.jpg"
    Image.linear_gradient("L").resize((5000, 100)).save(path)
    empty.tab.set_input_files("#file", path)
    assert size_when_open(empty, "wide.jpg") == (4096, 82)
    assert "5000 \N{MULTIPLICATION SIGN} 100" in empty.tab.inner_text("#message-text")


def test_without_its_model_the_page_says_what_is_wrong_and_offers_to_try_again(modelless):
    assert "could not be downloaded" in modelless.tab.inner_text("#status")
    assert modelless.tab.is_visible("#retry")


def test_a_transparent_picture_of_one_pixel_can_be_used(shared_visit, tmp_path):
    path = tmp_path / "pixel.png"
    Image.new("RGBA", (1, 1), (10, 200, 30, 0)).save(path)
    shared_visit.open(path)
    shared_visit.click(0.5, 0.5)
    assert shared_visit.mask().shape == (1, 1)
    shared_visit.watch.check()


def test_opening_another_picture_before_the_first_is_encoded_shows_the_last(shared_visit, portrait, tiny):
    shared_visit.tab.evaluate(DROP, ["dropped.png", "image/png", encoded(portrait)])
    assert size_when_open(shared_visit, "dropped.png") == (270, 512)
    shared_visit.open(tiny)
    shared_visit.click(15, 11)
    assert shared_visit.mask().shape == (23, 31)
    assert shared_visit.mask()[11, 15]
    shared_visit.watch.check()
