"""The plots: what is drawn is what was measured, and the SVG stands by itself."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.evaluate.measurements import Measurement, MeasurementTable
from mobile_sam.evaluate.report import plots
from mobile_sam.evaluate.statistics import BinMean, Interval, summarise

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved in the test, to look at what was drawn."""
    from matplotlib.figure import Figure

    saved = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *given, **named: saved.append(figure) or save(figure, *given, **named)
    )
    return saved


def all_plots(table, protocol="clicks"):
    summaries = summarise(table)
    models = sorted(set(table.model.tolist()))
    return [
        plots.iou_distribution(table, protocol, [1, 3]),
        plots.iou_against_prompts(summaries, protocol),
        plots.scatter(table, protocol, 1, models[1], models[0]),
        plots.area_bars(summaries, protocol, 1),
        plots.calibration(table, protocol, 1),
    ]


def texts(plot):
    return [element.text for element in ElementTree.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")]


def legend_of(figure):
    legend = figure.axes[0].get_legend() or figure.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def line_of(figure, index=0):
    return np.asarray(figure.axes[0].lines[index].get_xydata())


@pytest.mark.parametrize(
    ("iou", "share"), [(0.1, 100), (0.2, 100), (0.3, 75), (0.4, 75), (0.5, 50), (0.61, 25), (0.8, 25), (0.9, 0)]
)
def test_the_distribution_is_the_share_of_objects_that_reach_an_iou(table, figures, iou, share):
    plots.iou_distribution(table, "box", [1])
    line = line_of(figures[0])  # of IoUs .2, .4, .6, .8: a step holds up to and with its right end
    assert line[np.searchsorted(line[:, 0], iou, "left"), 1] == share
    assert figures[0].axes[0].lines[0].get_drawstyle() == "steps-pre"


def test_perfect_masks_keep_the_distribution_up_to_the_end(hand_made, figures):
    plots.iou_distribution(hand_made({"m": (0.5, 1.0, 1.0, 1.0)}), "box", [1])
    assert line_of(figures[0]).tolist() == [[0, 100], [0.5, 100], [1, 75]]


def test_a_long_distribution_is_thinned_and_keeps_its_shape(figures):
    ious = np.random.default_rng(0).uniform(0, 1, 20_000)
    rows = [
        Measurement(str(index), "1", "box", "m", 1, float(iou), 0.5, 0, 9.0, "small") for index, iou in enumerate(ious)
    ]
    plot = plots.iou_distribution(MeasurementTable.of(rows), "box", [1])
    line = line_of(figures[0])
    assert len(line) < 500
    for iou in (0.1, 0.5, 0.9):
        assert_allclose(line[np.searchsorted(line[:, 0], iou), 1], 100 * (ious >= iou).mean(), atol=0.5)
    assert len(plot.svg) < 40_000


@pytest.mark.parametrize(
    ("ious", "start"),
    [((0.2, 0.9, 0.9, 0.9), 0.0), ((0.71, 0.9, 0.9, 0.9), 0.71), ((0.9999, 1.0, 1.0, 1.0), 0.99)],
)
def test_the_axis_begins_where_masks_begin_to_differ(hand_made, figures, ious, start):
    plot = plots.iou_distribution(hand_made({"m": ious}), "box", [1])
    assert_allclose(figures[0].axes[0].get_xlim(), (start, 1))
    assert f"from {start:g} to 1" in plot.alt


def test_first_and_last_step_are_told_apart(large_table, figures):
    plots.iou_distribution(large_table, "clicks", [3, 1])
    names = legend_of(figures[0])
    assert names[:2] == ["onnxruntime, 1 prompt (n=210)", "onnxruntime, 3 prompts (n=210)"]
    styles = [line.get_linestyle() for line in figures[0].axes[0].lines]
    assert styles == [":", "-", ":", "-"]


def test_iou_against_prompts_draws_means_and_intervals(large_table, figures):
    summaries = summarise(large_table)
    plot = plots.iou_against_prompts(summaries, "clicks")
    expected = [large_table.where(protocol="clicks", model="torch", step=step).iou.mean() for step in (1, 2, 3)]
    assert_allclose(line_of(figures[0], 1), np.column_stack([(1, 2, 3), expected]))
    band = figures[0].axes[0].collections[1].get_paths()[0].vertices
    interval = next(summary.interval for summary in summaries if (summary.model, summary.step) == ("torch", 3))
    assert_allclose(sorted(set(band[band[:, 0] == 3, 1])), [interval.low, interval.high])
    assert f"torch {expected[2]:.3f} after 3" in plot.alt


def test_the_scatter_pairs_by_object_and_leaves_single_ones_out(figures):
    rows = [
        Measurement(picture, name, "box", model, 1, iou, 0.5, 0, 9.0, "small")
        for model, picture, name, iou in [
            ("a", "p", "1", 0.1),
            ("a", "p", "2", 0.2),
            ("a", "q", "1", 0.3),
            ("b", "q", "1", 0.5),
            ("b", "p", "1", 0.2),
            ("b", "q", "2", 0.9),
        ]
    ]
    plot = plots.scatter(MeasurementTable.of(rows), "box", 1, "b", "a")
    dots = line_of(figures[0], 1)  # the first line is the diagonal
    assert sorted(map(tuple, dots.tolist())) == [(0.1, 0.2), (0.3, 0.5)]
    assert plot.title == "box, 1 prompt: b against a, mean difference +0.1500, n=2"
    assert_allclose(line_of(figures[0]), [(0, 0), (1, 1)])


def test_the_scatter_names_bins_by_rising_area(large_table, figures):
    plots.scatter(large_table, "box", 1, "torch", "onnxruntime")
    assert [name.split()[0] for name in legend_of(figures[0])] == ["small", "medium", "large"]
    counts = [int(re.search(r"n=(\d+)", name)[1]) for name in legend_of(figures[0])]
    assert sum(counts) == 210


def test_objects_below_the_axes_are_drawn_at_the_edge_and_told(hand_made, figures):
    rng = np.random.default_rng(0)
    high = rng.uniform(0.95, 1, (2, 299))
    rows = [
        Measurement(str(index), "1", "box", model, 1, float(iou), 0.5, 0, 9.0, "small")
        for model, ious in zip("ab", np.column_stack([high, [0.1, 0.99]]), strict=True)
        for index, iou in enumerate(ious)
    ]
    plot = plots.scatter(MeasurementTable.of(rows), "box", 1, "b", "a")
    dots = line_of(figures[0], 1)
    assert dots[:, 0].min() == 0.95
    assert "(1 below 0.95, at the edge)" in figures[0].axes[0].get_xlabel()
    assert plot.title.endswith(f"{(high[1].sum() + 0.99 - high[0].sum() - 0.1) / 300:+.4f}, n=300")


def test_many_objects_are_counted_in_hexagons(figures):
    ious = np.random.default_rng(0).uniform(0, 1, (2, 6000))
    rows = [
        Measurement(str(index), "1", "box", model, 1, float(iou), 0.5, 0, 9.0, "small")
        for model, of_model in zip("ab", ious, strict=True)
        for index, iou in enumerate(of_model)
    ]
    plot = plots.scatter(MeasurementTable.of(rows), "box", 1, "b", "a")
    (hexagons,) = [entry for entry in figures[0].axes[0].collections if entry.get_array() is not None]
    assert hexagons.get_array().sum() == 6000
    assert not [text for text in texts(plot) if text and "$" in text]  # ticks of the colour bar are plain numbers
    assert len(plot.svg) < 200_000  # IoUs this even are the worst case


def test_area_bars_are_as_high_as_the_means(report, figures):
    plot = plots.area_bars(report.summaries, "box", 1)
    heights = [bar.get_height() for container in figures[0].axes[0].containers for bar in container]
    assert_allclose(heights, [0.3, 0.7, 0.35, 0.75])
    assert [tick.get_text() for tick in figures[0].axes[0].get_xticklabels()] == ["small\nn=2", "large\nn=2"]
    assert "fast: small 0.350, large 0.750" in plot.alt


def test_a_bin_that_a_model_lacks_is_a_gap(report, figures):
    first, second = report.summaries
    fewer = replace(second, by_bin={"large": BinMean(1, 0.6)})
    plots.area_bars([first, fewer], "box", 1)
    heights = [bar.get_height() for container in figures[0].axes[0].containers for bar in container]
    assert_allclose(heights, [0.3, 0.7, 0, 0.6])
    assert [tick.get_text() for tick in figures[0].axes[0].get_xticklabels()] == ["small\nn=2", "large\nn=1-2"]


def test_calibration_draws_means_of_tenths_by_rising_prediction(figures):
    said = np.linspace(0.01, 1, 100)
    rows = [
        Measurement(str(index), "1", "box", "m", 1, float(value) / 2, float(value), 0, 9.0, "small")
        for index, value in enumerate(said[::-1])
    ]
    plots.calibration(MeasurementTable.of(rows), "box", 1)
    means = said.reshape(10, 10).mean(axis=1)
    assert_allclose(line_of(figures[0]), np.column_stack([means, means / 2]))
    assert legend_of(figures[0]) == [f"m (n=100), bias {said.mean() / 2:+.3f}"]


def test_models_that_predict_nothing_are_left_out_of_the_calibration(hand_made, figures):
    table = hand_made()
    silent = replace(table, predicted_iou=np.where(table.model == "fast", np.nan, table.predicted_iou))
    plots.calibration(silent, "box", 1)
    assert [name.split()[0] for name in legend_of(figures[0])] == ["exact"]
    assert plots.calibration(replace(table, predicted_iou=np.full(8, np.nan)), "box", 1) is None


def test_every_plot_is_an_element_that_asks_for_nothing(large_table):
    for plot in all_plots(large_table):
        root = ElementTree.fromstring(plot.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox")
        assert root.get("width") is None
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        links = re.findall(r'(?:href|src)="([^"]*)"', plot.svg)
        used = [link[1:] for link in links if link.startswith("#")] + re.findall(r"url\(#([^)]*)\)", plot.svg)
        assert set(used) <= set(ids)
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
        assert "currentColor" in plot.svg
        assert "<style" not in plot.svg  # inside a page it would hold for all of it
        assert len(plot.svg) < 80_000
        assert plot.title
        assert plot.alt


def test_plots_of_one_page_share_no_ids(large_table):
    ids = [set(re.findall(r' id="([^"]*)"', plot.svg)) for plot in all_plots(large_table)]
    assert sum(map(len, ids)) == len(set().union(*ids))


def test_axes_have_names_and_numbers_of_objects(large_table):
    for plot in all_plots(large_table):
        shown = " ".join(text for text in texts(plot) if text)
        assert "IoU" in shown or "IoU" in plot.title
        assert re.search(r"n=\d+", shown + plot.title)


@pytest.mark.parametrize("name", ["$x^2$", "_hidden", "a <b> & 'c'", "企鹅", "two words " * 20])
def test_names_of_any_characters_are_shown(hand_made, name):
    table = hand_made({name: (0.1, 0.2, 0.3, 0.4), "other": (0.1, 0.2, 0.3, 0.5)})
    for plot in (
        plots.iou_distribution(table, "box", [1]),
        plots.area_bars(summarise(table), "box", 1),
        plots.scatter(table, "box", 1, name, "other"),
        plots.calibration(table, "box", 1),
    ):
        shown = [text for text in texts(plot) if text]
        assert any(name[:20] in text for text in shown)


def test_the_same_measurements_give_the_same_plot(large_table):
    assert [plot.svg for plot in all_plots(large_table)] == [plot.svg for plot in all_plots(large_table)]


def test_recall_against_seconds_has_a_dot_for_each_and_tells_the_numbers():
    runs = [
        plots.TimedRecall("exact a", 9.25, 0.5, Interval(0.4, 0.6)),
        plots.TimedRecall("fast <b>", 2.5, 0.25, Interval(math.nan, math.nan)),
    ]
    plot = plots.recall_against_seconds(runs, "AR@100")
    assert plot.title == "AR@100 against seconds for a picture"
    assert plot.alt == f"{plot.title}: exact a 0.500 in 9.25 s, fast <b> 0.250 in 2.5 s."
    for text in ("exact a", "fast &lt;b&gt;", "AR@100, line: 95% interval"):
        assert text in plot.svg


def test_the_settings_of_matplotlib_are_left_alone_and_do_not_matter(table):
    with matplotlib.rc_context():
        matplotlib.rcParams["font.size"] = 40
        before = dict(matplotlib.rcParams)
        large = plots.iou_distribution(table, "box", [1])
        assert dict(matplotlib.rcParams) == before
    assert large == plots.iou_distribution(table, "box", [1])


def test_nothing_of_pyplot_is_loaded():
    code = (
        "import sys\n"
        "from mobile_sam.evaluate.measurements import Measurement, MeasurementTable\n"
        "from mobile_sam.evaluate.report import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "row = Measurement('p', '1', 'box', 'm', 1, 0.5, 0.5, 0, 9.0, 'small')\n"
        "plots.iou_distribution(MeasurementTable.of([row]), 'box', [1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_way_to_get_it_is_told(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mobile-sam\[evaluate\]'"):
        plots.iou_distribution(table, "box", [1])
