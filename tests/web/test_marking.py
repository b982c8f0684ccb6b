"""Clicks, boxes, undo, candidates, several objects: what a visitor does on a desktop."""

import numpy as np
import pytest

CAT_XY = (225, 160)  # its forehead
WALL_XY = (20, 20)


def iou(one, other):
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def test_a_click_gives_a_mask_that_holds_it_and_not_all(visit):
    visit.click(*CAT_XY)
    mask = visit.mask()
    assert mask.shape == (300, 451)
    assert mask[CAT_XY[1], CAT_XY[0]]
    assert 0 < np.count_nonzero(mask) < 0.9 * mask.size
    (cat,) = visit.state()["objects"]
    assert cat["areaPx"] == np.count_nonzero(mask)
    assert [(click["isForeground"], round(click["x"]), round(click["y"])) for click in cat["clicks"]] == [
        (True, *CAT_XY)
    ]


def test_a_click_is_where_the_pointer_is_after_zooming_and_panning(visit):
    visit.tab.mouse.move(*visit.at(300, 100))
    visit.tab.mouse.wheel(0, -400)
    visit.tab.keyboard.down(" ")
    visit.tab.mouse.down()
    x, y = visit.at(300, 100)
    visit.tab.mouse.move(x + 60, y + 30, steps=3)
    visit.tab.mouse.up()
    visit.tab.keyboard.up(" ")
    assert visit.state()["view"]["scale"] > 1
    visit.click(*CAT_XY)
    (click,) = visit.state()["objects"][0]["clicks"]
    assert (click["x"], click["y"]) == pytest.approx(CAT_XY, abs=0.6)


@pytest.mark.parametrize("how", [{"modifiers": ["Alt"]}, {"button": "right"}, {"tool": "#tool-background"}])
def test_a_background_click_takes_that_place_out_of_the_mask(visit, how):
    visit.drag_box(10, 5, 440, 295)
    assert visit.mask()[160, 225]
    if tool := how.pop("tool", None):
        visit.tab.click(tool)
    visit.click(*CAT_XY, **how)
    visit.tab.click("#tool-foreground")
    (object_,) = visit.state()["objects"]
    assert [click["isForeground"] for click in object_["clicks"]] == [False]
    assert not visit.mask()[160, 225]


def test_a_dragged_box_is_the_prompt(visit):
    visit.drag_box(100, 40, 350, 280)
    (object_,) = visit.state()["objects"]
    box = object_["box"]
    assert (box["x1"], box["y1"], box["x2"], box["y2"]) == pytest.approx((100, 40, 350, 280), abs=0.6)
    assert object_["token"] == 0  # SAM's single mask: a box is not ambiguous


def test_undo_and_redo_bring_masks_back(visit):
    tab = visit.tab
    visit.click(*CAT_XY)
    first = visit.mask()
    visit.click(40, 200)
    second = visit.mask()
    assert iou(first, second) < 1
    visit.press("#undo")
    assert np.array_equal(visit.mask(), first)
    tab.keyboard.press("Control+Shift+Z")
    visit.settle()
    assert np.array_equal(visit.mask(), second)
    tab.keyboard.press("Control+Z")
    visit.press("#undo")
    assert visit.state()["objects"] == []
    assert tab.is_enabled("#redo")


def test_clear_takes_the_clicks_and_keeps_the_object(visit):
    visit.click(*CAT_XY)
    visit.press("#clear")
    assert visit.tab.is_disabled("#clear")
    (object_,) = visit.state()["objects"]
    assert (object_["clicks"], object_["areaPx"]) == ([], None)
    visit.press("#undo")
    assert visit.mask()[CAT_XY[1], CAT_XY[0]]


def test_three_candidates_are_offered_for_a_click_and_the_chosen_one_is_the_mask(visit):
    tab = visit.tab
    visit.click(*CAT_XY)
    radios = tab.locator("#candidates input[type=radio]")
    assert radios.count() == 3
    best = visit.state()["objects"][0]
    labels = [radios.nth(index).get_attribute("aria-label") for index in range(3)]
    scores = [float(label.split("score ")[1].split(",")[0]) for label in labels]
    assert scores[best["token"] - 1] == max(scores)
    areas = []
    for index in range(3):
        radios.nth(index).check(force=True)
        visit.settle()
        areas.append(np.count_nonzero(visit.mask()))
        assert visit.state()["objects"][0]["token"] == index + 1
    assert len(set(areas)) == 3
    assert areas[0] < areas[2]  # SAM's first is the smallest part, its last the whole


def test_several_objects_have_names_and_masks_of_their_own(visit):
    tab = visit.tab
    visit.click(150, 95)
    one = visit.mask()
    visit.press("#new-object")
    visit.drag_box(250, 150, 440, 295)
    other = visit.mask()
    objects = visit.state()["objects"]
    names = [object_["name"] for object_ in objects]
    assert len(set(names)) == 2
    tab.locator(f"[data-testid=object-{objects[0]['id']}] .object-name").fill("Eye <b>&")
    tab.keyboard.press("Enter")
    tab.click(f"[data-testid=object-{objects[0]['id']}] .object-select")
    assert np.array_equal(visit.mask(), one)
    assert not np.array_equal(one, other)
    assert [object_["name"] for object_ in visit.state()["objects"]] == ["Eye <b>&", names[1]]
    tab.click(f"[data-testid=object-{objects[1]['id']}] [aria-label^=Delete]")
    assert [object_["name"] for object_ in visit.state()["objects"]] == ["Eye <b>&"]


def test_the_mask_under_the_pointer_is_shown(visit):
    visit.tab.mouse.move(*visit.at(*CAT_XY))
    visit.tab.wait_for_function("() => window.mobileSam.state().hasHover")
    assert visit.state()["objects"] == []


def test_clicks_beside_the_picture_mean_nothing(visit):
    view = visit.state()["view"]
    assert view["y"] > 4
    x, y = visit.at(100, 0)
    visit.tab.mouse.click(x, y - 3)
    visit.settle()
    assert visit.state()["objects"] == []


def test_the_page_says_what_it_found(visit):
    visit.click(*CAT_XY)
    share = round(100 * np.count_nonzero(visit.mask()) / (300 * 451))
    assert f"{share} % of the picture" in visit.tab.inner_text("#status")
