"""All of it without a pointer."""

import numpy as np
import pytest


@pytest.fixture
def keys(visit):
    """The tab, with the focus at the page's start."""
    visit.tab.evaluate("document.activeElement.blur()")
    return visit


def focused(visit):
    return visit.tab.evaluate("document.activeElement.id")


def tab_to(visit, element_id, backwards=False):
    """Press Tab until an element has the focus."""
    for _ in range(60):
        visit.tab.keyboard.press("Shift+Tab" if backwards else "Tab")
        if focused(visit) == element_id:
            return
    raise AssertionError(f"Tab does not lead to #{element_id}")


def test_a_file_is_opened_and_an_object_marked_and_exported(keys, cat):
    tab = keys.tab
    tab_to(keys, "open")
    keys.open_by_chooser(cat, "Enter")
    tab_to(keys, "canvas")
    tab.keyboard.press("ArrowRight")  # the crosshair appears in the middle
    assert keys.state()["crosshair"] == {"x": 225, "y": 150}
    tab.keyboard.press("Shift+ArrowDown")
    tab.keyboard.press("ArrowLeft")
    assert keys.state()["crosshair"] == {"x": 224, "y": 160}
    tab.keyboard.press("Enter")
    keys.settle()
    (object_,) = keys.state()["objects"]
    assert object_["clicks"] == [{"x": 224.5, "y": 160.5, "isForeground": True}]
    assert keys.mask()[160, 224]
    tab_to(keys, "export")
    tab.keyboard.press("Enter")
    tab_to(keys, "export-mask")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert download.value.suggested_filename == "chelsea_Object_1_mask.png"
    tab.keyboard.press("Escape")
    assert focused(keys) == "export"  # it comes back to where it was


def test_boxes_background_clicks_candidates_and_steps_have_keys(keys):
    tab = keys.tab
    tab.focus("#canvas")
    tab.keyboard.press("b")
    for _ in range(12):
        tab.keyboard.press("Shift+ArrowRight")
        tab.keyboard.press("Shift+ArrowDown")
    tab.keyboard.press("b")
    keys.settle()
    box = keys.state()["objects"][0]["box"]
    assert (box["x2"] - box["x1"], box["y2"] - box["y1"]) == (121, 121)
    first = keys.mask()
    tab.keyboard.press("Shift+Enter")
    keys.settle()
    assert [click["isForeground"] for click in keys.state()["objects"][0]["clicks"]] == [False]
    tab.keyboard.press("2")
    keys.settle()
    assert keys.state()["objects"][0]["token"] == 1
    tab.keyboard.press("Control+z")
    tab.keyboard.press("Control+z")
    keys.settle()
    assert np.array_equal(keys.mask(), first)
    tab.keyboard.press("n")
    tab.keyboard.press("Enter")
    keys.settle()
    assert len(keys.state()["objects"]) == 2
    tab.keyboard.press("Delete")
    assert len(keys.state()["objects"]) == 1


def test_zooming_keys_and_the_help(keys):
    tab = keys.tab
    tab.focus("#canvas")
    fitted = keys.state()["view"]["scale"]
    tab.keyboard.press("+")
    assert keys.state()["view"]["scale"] > fitted
    tab.keyboard.press("0")
    assert keys.state()["view"]["scale"] == fitted
    tab.keyboard.press("?")
    assert tab.is_visible("#help-dialog")
    tab.keyboard.press("Escape")
    assert tab.is_hidden("#help-dialog")


def test_letters_in_a_name_are_letters(keys):
    tab = keys.tab
    keys.click(225, 160)
    name = tab.locator(".object-name").first
    name.fill("")
    name.press_sequentially("bench 1+2?")
    tab.keyboard.press("Enter")
    state = keys.state()
    assert [object_["name"] for object_ in state["objects"]] == ["bench 1+2?"]
    assert state["objects"][0]["box"] is None


def test_what_has_the_focus_can_be_seen(keys):
    for element_id in ("open", "canvas", "export"):
        keys.click(225, 160)
        tab_to(keys, element_id)
        style = keys.tab.evaluate(
            "(({outlineStyle, outlineWidth, boxShadow}) => [outlineStyle, outlineWidth, boxShadow])"
            "(getComputedStyle(document.activeElement))"
        )
        assert (style[0] != "none" and style[1] != "0px") or style[2] != "none", element_id
