"""What the page exports, read with the tools that people read it with."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


@pytest.fixture(scope="module")
def marked_once(shared_visit, cat):
    """A tab with two objects: a box without the forehead, and the forehead, which is selected."""
    shared_visit.open(cat)
    shared_visit.drag_box(10, 5, 440, 295)
    shared_visit.click(225, 160, button="right")
    shared_visit.press("#new-object")
    shared_visit.click(225, 160)
    return shared_visit


@pytest.fixture
def marked(marked_once):
    """That tab; tests leave it as it was."""
    marked_once.tab.bring_to_front()
    yield marked_once
    marked_once.watch.check()


@pytest.fixture(scope="module")
def masks(marked_once):
    """The masks of both objects, by name."""
    by_name = {}
    for object_ in marked_once.state()["objects"]:
        marked_once.tab.click(f"[data-testid=object-{object_['id']}] .object-select")
        by_name[object_["name"]] = marked_once.mask()
    assert list(by_name) == ["Object 1", "Object 2"]
    return by_name


@pytest.fixture
def export(marked):
    """Press a button of the dialog; the file's name and path."""

    def press(what, scope="current", crops=False):
        tab = marked.tab
        tab.click("#export")
        tab.check(f"#export-{scope}")
        tab.set_checked("#export-crop", crops)
        with tab.expect_download() as download:
            tab.click(f"#export-{what}")
        assert f"Saved {download.value.suggested_filename}." == tab.inner_text("#export-outcome")
        tab.keyboard.press("Escape")
        return download.value.suggested_filename, download.value.path()

    return press


def iou(one, other):
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def test_a_cut_out_has_the_mask_as_alpha_and_the_pictures_colours(masks, export, cat):
    name, path = export("cutout")
    assert name == "chelsea_Object_2_cutout.png"
    rgba = np.array(Image.open(path))
    assert rgba.shape == (300, 451, 4)
    mask = masks["Object 2"]
    assert np.array_equal(rgba[..., 3], np.where(mask, 255, 0))
    assert np.array_equal(rgba[mask][:, :3], np.array(Image.open(cat).convert("RGB"))[mask])


def test_a_cropped_cut_out_is_as_large_as_the_object(masks, export):
    _, path = export("cutout", crops=True)
    rows, columns = np.nonzero(masks["Object 2"])
    inside = masks["Object 2"][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.array_equal(np.array(Image.open(path))[..., 3] > 0, inside)


def test_a_cut_out_of_all_has_all(masks, export):
    _, path = export("cutout", scope="all")
    assert np.array_equal(np.array(Image.open(path))[..., 3] > 0, masks["Object 1"] | masks["Object 2"])


def test_a_mask_is_black_and_white(masks, export):
    name, path = export("mask")
    assert name == "chelsea_Object_2_mask.png"
    assert np.array_equal(np.array(Image.open(path)), np.where(masks["Object 2"], 255, 0))


def test_masks_of_all_objects_are_their_numbers(masks, export):
    _, path = export("mask", scope="all")
    labels = np.array(Image.open(path))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels > 0, masks["Object 1"] | masks["Object 2"])
    only_first = masks["Object 1"] & ~masks["Object 2"]
    assert only_first.any()
    assert set(labels[only_first]) == {1}


def test_coco_is_read_by_pycocotools(masks, export):
    _, path = export("coco", scope="all")
    coco = COCO(str(path))
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("chelsea.png", 451, 300)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [coco.cats[annotation["category_id"]]["name"] for annotation in annotations] == list(masks)
    for annotation, mask in zip(annotations, masks.values(), strict=True):
        assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
        rle = coco.annToRLE(annotation)
        assert annotation["area"] == coco_mask.area(rle)
        assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()


def test_outlines_enclose_the_masks(masks, export):
    _, path = export("svg", scope="all")
    root = ElementTree.parse(path).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.get("viewBox") == "0 0 451 300"
    paths = root.findall(f"{svg}path")
    assert [shape.find(f"{svg}title").text for shape in paths] == list(masks)
    for shape, mask in zip(paths, masks.values(), strict=True):
        assert shape.get("fill-rule") == "evenodd"
        assert iou(rasterised(shape.get("d"), mask.shape), mask) > 0.98


def test_the_cut_out_is_copied_to_the_clipboard(masks, marked):
    tab = marked.tab
    tab.click("#export")
    tab.click("#export-copy")
    tab.wait_for_function("() => document.getElementById('export-outcome').textContent.includes('clipboard')")
    tab.keyboard.press("Escape")
    encoded = tab.evaluate(
        """async () => {
            const [item] = await navigator.clipboard.read();
            const bytes = new Uint8Array(await (await item.getType("image/png")).arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }"""
    )
    rgba = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
    assert np.array_equal(rgba[..., 3] > 0, masks["Object 2"])


def test_hidden_objects_are_not_exported(masks, marked, export):
    first = marked.state()["objects"][0]["id"]
    marked.tab.click(f"[data-testid=object-{first}] [aria-label^=Hide]")
    _, path = export("cutout", scope="all")
    marked.tab.click(f"[data-testid=object-{first}] [aria-label^=Show]")
    assert np.array_equal(np.array(Image.open(path))[..., 3] > 0, masks["Object 2"])


def test_names_of_files_and_titles_are_made_safe(marked, export):
    object_id = marked.state()["selectedId"]
    marked.tab.locator(f"[data-testid=object-{object_id}] .object-name").fill('../a"<b>&')
    marked.tab.keyboard.press("Enter")
    name, path = export("svg")
    assert re.fullmatch(r"[\w.&-]+\.svg", name)
    assert "/" not in name
    marked.press("#undo")
    title = ElementTree.parse(path).getroot().find(".//{http://www.w3.org/2000/svg}title")
    assert title.text == '../a"<b>&'


def rasterised(path, image_hw, finer=8):
    """Fill an SVG path of straight closed rings by the even-odd rule, pixel centres at + 0.5: (H, W) bool."""
    height, width = image_hw
    is_inside = np.zeros((height * finer, width * finer), bool)
    for ring in re.findall(r"M([^MZ]+)Z", path):
        points = [tuple(map(float, point.split())) for point in ring.split("L")]
        one = Image.new("1", (width * finer, height * finer))
        ImageDraw.Draw(one).polygon([(x * finer - 0.5, y * finer - 0.5) for x, y in points], fill=1)
        is_inside ^= np.array(one)
    return is_inside.reshape(height, finer, width, finer).mean(axis=(1, 3)) >= 0.5
