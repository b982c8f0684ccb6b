"""What axe-core finds: nothing serious or critical, in light and dark, on desktop and phone, whatever is open."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SERIOUS = {"serious", "critical"}
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
LOOKS = {
    "light": ("light", DESKTOP),
    "dark": ("dark", DESKTOP),
    "phone": ("light", PHONE),
    "phone, dark": ("dark", PHONE),
}
DIALOGS = {"examples": "#examples", "export": "#export", "settings": "#settings", "help": "#help"}
RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
    ({ id, impact, nodes }) => ({ id, impact, where: nodes.map((node) => node.html + node.failureSummary) }))"""


@pytest.fixture(scope="module")
def axe_source():
    path = ROOT / "web/node_modules/axe-core/axe.min.js"
    assert path.is_file(), f"there is no {path}: run `make web`, or `npm ci` in web/"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def at_work(new_visit, axe_source, tiny):
    """A tab with objects and found masks, with axe in it; evaluating is not held up by the page's policy."""
    visit = new_visit(reduced_motion="reduce")
    visit.tab.evaluate(axe_source)
    visit.open(tiny)
    visit.click(15, 11)
    visit.press("#new-object")
    visit.drag_box(2, 2, 29, 21)
    visit.tab.select_option("#points-per-side", "8")
    visit.tab.fill("#quality", "0.5")
    visit.press("#everything")
    return visit


@pytest.fixture(scope="module")
def at_start(new_visit, site_url, axe_source):
    """A tab in which no picture was opened yet; the model may still be on its way."""
    visit = new_visit(waits=False, reduced_motion="reduce")
    visit.tab.goto(site_url)
    visit.tab.evaluate(axe_source)
    return visit


@pytest.fixture(params=LOOKS)
def look(request):
    """Give a tab one of the looks."""
    colour_scheme, viewport = LOOKS[request.param]

    def change(visit):
        visit.tab.bring_to_front()
        visit.tab.emulate_media(color_scheme=colour_scheme, reduced_motion="reduce")
        visit.tab.set_viewport_size(viewport)
        return visit

    return change


FINAL_COLOURS = """async () => {
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    await Promise.allSettled(document.getAnimations().map((animation) => animation.finished));
}"""


def faults(visit):
    """Serious faults; of what is still fading, colours are not final, so that is waited for."""
    visit.tab.evaluate(FINAL_COLOURS)
    return [fault for fault in visit.tab.evaluate(RUN) if fault["impact"] in SERIOUS]


def test_the_page_at_its_start(look, at_start):
    assert faults(look(at_start)) == []


def test_the_page_at_work(look, at_work):
    assert len(at_work.state()["objects"]) == 2
    assert at_work.state()["numFound"] > 0
    assert faults(look(at_work)) == []


def test_a_message(look, at_work, tmp_path):
    visit = look(at_work)
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    visit.tab.set_input_files("#file", path)
    visit.tab.wait_for_selector("#message:visible")
    assert faults(visit) == []
    visit.tab.click("#message-close")


@pytest.mark.parametrize("dialog", DIALOGS)
def test_each_dialog(look, at_work, dialog):
    visit = look(at_work)
    visit.tab.click(DIALOGS[dialog])
    assert visit.tab.is_visible(f"#{dialog}-dialog")
    assert faults(visit) == []
    visit.tab.keyboard.press("Escape")


def test_dark_is_dark_and_the_switch_goes_through_all_three(new_visit, site_url):
    visit = new_visit(waits=False, color_scheme="dark")
    visit.tab.goto(site_url)
    backgrounds, names = [], []
    for _ in range(3):
        names.append(visit.tab.get_attribute("html", "data-theme"))
        colour = visit.tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        backgrounds.append(sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3)
        visit.tab.click("#theme")
    assert names == ["auto", "light", "dark"]
    assert backgrounds[0] < 64
    assert backgrounds[1] > 192
    assert backgrounds[2] == backgrounds[0]
