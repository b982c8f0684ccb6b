"""The HTML page: one file, well formed, safe with any names, asking nothing of the net."""

import base64
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.evaluate.report.cases import Case, draw_case
from mobile_sam.evaluate.report.content import NamedTable, Report
from mobile_sam.evaluate.report.page import draw_plots, require_page_packages, write_page
from mobile_sam.evaluate.report.tables import all_tables

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

EVIL = "</td><script>alert('x')</script>\"&amp;<img src=x onerror=y>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, the text of each table cell, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += text

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(self.texts)


def case_of(title="worst", protocol="box", **fields):
    image = np.tile(np.linspace(0, 255, 160)[:, None], (120, 1, 3)).astype(np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:100] = True
    known = {
        "image": image,
        "model": "exact",
        "picture": "p",
        "object": "1",
        "category": "cat",
        "iou": 0.2,
        "predicted_iou": 0.75,
    }
    return Case(title, protocol, truth=mask, predicted=np.roll(mask, 9, 1), **{**known, **fields})


@pytest.fixture
def page_of(tmp_path):
    def write(report, *given, **named):
        write_page(tmp_path / "report.html", report, *given, **named)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def test_the_page_has_every_number_of_every_table(large_table, report_of, page_of):
    report = report_of(large_table, counts={"objects evaluated": 210}, profile={"encode": 1.0})
    page = page_of(report, large_table)
    for table in all_tables(report):
        assert [list(table.columns), *map(list, table.texts)] in page.tables
        assert table.note in " ".join(page.text.split())


def test_the_page_asks_for_nothing_from_outside(large_table, report_of, page_of, tmp_path):
    page = page_of(report_of(large_table), large_table, [case_of()])
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert re.match(r"#|data:image/(jpeg|png);base64,", attributes.get(name) or "#")
        assert not [name for name in attributes if name.startswith("on")]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_no_name_becomes_markup(hand_made, report_of, page_of):
    table = hand_made({EVIL: (0.1, 0.2, 0.3, 0.4), "other": (0.2, 0.2, 0.3, 0.4)}, protocol=EVIL)
    report = report_of(
        table,
        title=EVIL,
        command=EVIL,
        notes=[EVIL],
        counts={EVIL: 3},
        machine={EVIL: EVIL},
        dataset={"name": EVIL, "kind": EVIL, "selection": EVIL, EVIL: EVIL},
        failures=[{"picture": EVIL, "reason": EVIL}],
        problems=[{"kind": EVIL, "where": EVIL, "message": EVIL, "is_left_out": True}],
        protocols=[{"name": EVIL, EVIL: EVIL}],
        models=[{"name": EVIL, "checkpoint": EVIL}],
        tables=[NamedTable(EVIL, (EVIL, "b"), ((EVIL, EVIL),), note=EVIL)],
    )
    case = case_of(EVIL, EVIL, model=EVIL, picture=EVIL, object=EVIL, category=EVIL)
    page = page_of(report, table, [case])
    assert page.all("script") == []
    assert all((image["src"] or "").startswith("data:image/jpeg") for image in page.all("img"))
    assert EVIL in page.text
    assert EVIL in page.all("img")[0]["alt"]
    assert [EVIL, "b"] in page.tables[1]


def test_cases_are_pictures_in_the_page_with_their_captions(report, table, page_of):
    cases = [case_of(), case_of(object="2"), case_of("best"), case_of("best", protocol="clicks")]
    page = page_of(report, table, cases)
    images = page.all("img")
    assert [image["alt"] for image in images] == [case.caption for case in cases]
    assert [text for text in page.texts if text in ("box: worst", "box: best", "clicks: best")] == [
        "box: worst",
        "box: best",
        "clicks: best",
    ]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2]))), float)
    drawn = draw_case(cases[0])
    assert decoded.shape == drawn.shape
    assert np.abs(decoded - drawn).mean() < 4


def test_the_page_is_accessible(large_table, report_of, page_of):
    page = page_of(report_of(large_table), large_table, [case_of()])
    assert page.all("html") == [{"lang": "en"}]
    assert all(heading["scope"] in ("col", "row") for heading in page.all("th"))
    assert len(page.all("th")) > 20
    assert all(image.get("alt") for image in page.all("img"))
    drawings = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(drawings) == len(page.all("svg")) > 5
    assert all(drawing["aria-label"] for drawing in drawings)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_links_lead_to_sections_and_no_id_comes_twice(large_table, report_of, page_of):
    page = page_of(report_of(large_table, counts={"objects": 1}), large_table, [case_of()])
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in page.all("a")]
    assert links == ["#results", "#differences", "#plots", "#cases", "#counts", "#setup"]
    assert {link[1:] for link in links} <= set(ids)


def test_sections_without_content_are_left_out(page_of):
    times = NamedTable("times", ("stage", "ms"), (("encode", 12.5),))
    page = page_of(Report("latency", "speed", tables=[times]))
    assert [link["href"] for link in page.all("a")] == ["#results", "#setup"]
    assert [["stage", "ms"], ["encode", "12.5"]] in page.tables
    assert page.all("svg") == []


def test_an_empty_report_says_so(page_of):
    assert "Nothing was measured." in page_of(Report("prompts", "t")).text


def test_every_setting_of_every_protocol_and_model_is_in_the_page(report, page_of):
    protocol = {"name": "box", "mask_rule": "oracle", "seed": 7, "area_bins": [{"name": "all", "below_px": None}]}
    page = page_of(replace(report, protocols=[protocol], models=[{"name": "m", "weights_sha256": "ab" * 32}]))
    assert [["Setting", "Value"], ["name", "box"], ["mask_rule", "oracle"], ["seed", "7"], ["area_bins", "all"]] in (
        page.tables
    )
    assert [["Setting", "Value"], ["name", "m"], ["weights_sha256", "ab" * 32]] in page.tables
    assert len(page.all("details")) == 3  # these two, and the dataset


def test_plots_show_the_first_and_the_last_step(large_table, report_of):
    drawn = dict(draw_plots(report_of(large_table), large_table, report_steps=(1, 2)))
    assert list(drawn) == ["box", "clicks"]
    titles = [re.sub(r"mean difference .*", "", plot.title) for plot in drawn["clicks"]]
    assert titles == [
        "clicks: share of objects with at least this IoU",
        "clicks: mIoU against the number of prompts",
        "clicks, 1 prompt: torch against onnxruntime, ",
        "clicks, 2 prompts: torch against onnxruntime, ",
        "clicks, 1 prompt: mIoU by area of the object",
        "clicks, 2 prompts: mIoU by area of the object",
        "clicks, 1 prompt: IoU against predicted IoU",
        "clicks, 2 prompts: IoU against predicted IoU",
    ]
    assert len(drawn["box"]) == 4  # of one step: no line against prompts


def test_scatters_are_against_the_baseline_of_the_differences(report, table):
    swapped = replace(report, differences=[replace(report.differences[0], model="exact", baseline="fast")])
    titles = [plot.title for plot in dict(draw_plots(swapped, table))["box"]]
    assert "box, 1 prompt: exact against fast, mean difference -0.0500, n=4" in titles


def test_agreement_has_no_plots_against_the_truth(report, table):
    plots = dict(draw_plots(replace(report, kind="agreement"), table))["box"]
    assert [plot.title.partition(":")[0] for plot in plots] == ["box", "box, 1 prompt"]


def test_a_hundred_pictures_make_a_page_of_a_few_megabytes(large_table, report_of, page_of, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)  # the worst for a JPEG
    cases = [case_of(picture=str(index), image=noise) for index in range(24)]
    page_of(report_of(large_table), large_table, cases)
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_its_packages_the_page_says_how_to_get_them(report, table, tmp_path, monkeypatch, missing):
    require_page_packages()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        MissingDependencyError, match=rf"{missing} is missing; run: pip install 'mobile-sam\[evaluate\]'"
    ):
        write_page(tmp_path / "report.html", report, table)
    with pytest.raises(MissingDependencyError) as caught:
        require_page_packages()
    assert caught.value.name == missing
    assert list(tmp_path.iterdir()) == []


def test_a_failed_page_leaves_the_old_one(report, table, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="of the picture's size"):
        write_page(path, report, table, [replace(case_of(), truth=np.zeros((2, 2), bool))])
    assert path.read_text(encoding="utf-8") == "old"
