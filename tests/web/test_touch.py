"""A phone: 360 px wide, fingers."""

import numpy as np
import pytest

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
MIN_TARGET_PX = 24  # WCAG 2.2, 2.5.8


@pytest.fixture(scope="module")
def held(new_visit, cat):
    visit = new_visit(**PHONE)
    visit.open(cat)
    return visit


@pytest.fixture
def phone(held):
    held.start_over()
    yield held
    held.watch.check()


@pytest.fixture
def touch(phone):
    """Touch the picture with fingers at points of it: `touch("Start", (x, y), ...)`, "Move", "End"."""
    session = phone.tab.context.new_cdp_session(phone.tab)

    def send(kind, *points):
        at = [phone.at(*point) for point in points]
        fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(at)]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})

    yield send
    session.detach()


def test_nothing_is_wider_than_the_screen(phone):
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 360
    picture = [phone.at(0, 0), phone.at(451, 300)]
    assert all(0 <= x <= 360 for x, _ in picture)


def test_a_tap_is_a_click(phone):
    phone.tab.touchscreen.tap(*phone.at(225, 160))
    phone.settle()
    assert phone.mask()[160, 225]


def test_a_long_press_is_a_background_click(phone, touch):
    phone.tab.click("#tool-box")
    touch("Start", (10, 5))
    touch("Move", (200, 150))
    touch("Move", (440, 295))
    touch("End")
    phone.settle()
    phone.tab.click("#tool-foreground")
    assert phone.mask()[160, 225]
    touch("Start", (225, 160))
    phone.tab.wait_for_timeout(700)
    touch("End")
    phone.settle()
    (object_,) = phone.state()["objects"]
    assert [click["isForeground"] for click in object_["clicks"]] == [False]
    assert not phone.mask()[160, 225]


def test_one_finger_moves_the_picture_and_marks_nothing(phone, touch):
    before = phone.state()["view"]
    touch("Start", (200, 150))
    for step in (20, 40, 60):
        touch("Move", (200 + step, 150 + step))
    touch("End")
    after = phone.state()["view"]
    assert (after["x"] > before["x"] + 10, after["scale"]) == (True, before["scale"])
    assert phone.state()["objects"] == []


def test_two_fingers_zoom(phone, touch):
    before = phone.state()["view"]["scale"]
    touch("Start", (150, 150))
    touch("Start", (150, 150), (300, 150))
    for spread in (20, 40, 60):
        touch("Move", (150 - spread / 2, 150), (300 + spread / 2, 150))
    touch("End")
    assert phone.state()["view"]["scale"] > 1.1 * before
    assert phone.state()["objects"] == []


def test_buttons_are_large_enough_for_fingers(phone):
    phone.tab.touchscreen.tap(*phone.at(225, 160))
    phone.settle()
    boxes = phone.tab.evaluate(
        """() => [...document.querySelectorAll("button, select, .candidate")]
            .filter((button) => button.checkVisibility())
            .map((button) => [button.id || button.className, button.getBoundingClientRect()])
            .map(([name, { width, height }]) => [name, Math.min(width, height)])"""
    )
    assert len(boxes) > 10
    assert [box for box in boxes if 0 < box[1] < MIN_TARGET_PX] == []


def test_the_picture_fits_when_the_phone_is_turned(phone):
    phone.tab.set_viewport_size({"width": 740, "height": 360})
    phone.tab.wait_for_function("() => window.mobileSam.clientPoint(451, 300).y <= 360")
    phone.tab.touchscreen.tap(*phone.at(225, 160))
    phone.settle()
    assert phone.mask()[160, 225]
    phone.tab.set_viewport_size(PHONE["viewport"])
    phone.tab.wait_for_function("() => window.mobileSam.clientPoint(451, 300).x <= 360")
    assert np.count_nonzero(phone.mask())
