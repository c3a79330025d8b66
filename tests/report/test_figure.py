from __future__ import annotations

import builtins
import math
import xml.etree.ElementTree as ElementTree

import pytest
import report_runs
from PIL import Image

from hf_iomt.report import draw_comparison, draw_run, read_run
from hf_iomt.report.axes import set_scale
from hf_iomt.report.palette import candidate_colours
from hf_iomt.report.panels import draw_calibration, draw_losses, draw_metrics, draw_ribbon, draw_shares
from hf_iomt.report.style import figure_style, make_figure

A, B = "adam:lr=0.001", "sgdm:lr=0.1"

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(report_runs.long_run(tmp_path_factory.mktemp("run"), 20))


@pytest.fixture
def axes():
    with figure_style():
        yield make_figure(6, 3).add_subplot()


def texts(path):
    return {element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")}


def test_a_run_as_png_and_as_svg(run, tmp_path):
    draw_run(run, tmp_path / "new" / "run.png")
    with Image.open(tmp_path / "new" / "run.png") as picture:
        assert picture.width == 1650 and picture.height > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    draw_run(run, tmp_path / "run.svg")
    found = texts(tmp_path / "run.svg")
    # Text stays text.
    assert {"loss", "smoothed", "Transferability", "optimizer step", "sgd · 1e-3", "rolled back"} <= found


def test_the_same_run_gives_the_same_file_whatever_the_settings_of_the_user(run, tmp_path):
    import matplotlib

    draw_run(run, tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "svg.fonttype": "path"}):
        draw_run(run, tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_another_suffix_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"written as .png, .svg or .pdf, but got 'run.gif'. Choose one"):
        draw_run(run, tmp_path / "run.gif")


def test_without_matplotlib_the_extra_is_named(run, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ImportError, match=r"need matplotlib.* Install the extra `plots`: pip install 'hf-iomt\[plots\]'"
    ):
        draw_run(run, tmp_path / "run.png")


@pytest.mark.parametrize(
    "settings",
    [
        {"cycles": 5},
        {"cycles": 8, "candidates": [A]},
        {"cycles": 12, "evaluations": 0, "race": False},
        {"cycles": 12, "broken": 0.2},
        {"cycles": 12, "broken": 1.0, "evaluations": 1},
        {"cycles": 9, "candidates": [f"adam:lr={rate}" for rate in range(1, 40)], "undone": 1.0},
    ],
    ids=["short", "one candidate", "no evaluation", "losses that explode", "nothing finite", "many, all undone"],
)
def test_every_kind_of_run_can_be_drawn(settings, tmp_path):
    draw_run(read_run(report_runs.long_run(tmp_path, **settings)), tmp_path / "run.svg")
    assert "optimizer step" in texts(tmp_path / "run.svg")


def test_a_run_without_anything_but_its_history(tmp_path):
    draw_run(read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 1)])), tmp_path / "run.svg")
    assert {"No losses were logged.", "ω_t is not known."} <= texts(tmp_path / "run.svg")


def test_a_folder_may_have_any_name(tmp_path):
    folder = report_runs.long_run(tmp_path / "a_$x_$b", 6)
    draw_run(read_run(folder), tmp_path / "run.svg")
    assert "a_$x_$b: loss" in texts(tmp_path / "run.svg")


def test_names_that_begin_with_an_underscore_are_in_the_legend(tmp_path):
    runs = [read_run(report_runs.long_run(tmp_path / name, 6)) for name in ("_under", "weights")]
    draw_comparison(runs, tmp_path / "both.svg")
    elements = ElementTree.parse(tmp_path / "both.svg").iter("{http://www.w3.org/2000/svg}text")
    found = [element.text.lstrip("\u200b") for element in elements]
    # In two legends of curves, and beside two rows of bars.
    assert found.count("_under") == found.count("weights") == 4


def test_a_comparison(tmp_path):
    folders = [report_runs.long_run(tmp_path / name, 6, evaluations=count) for name, count in (("a", 3), ("b", 0))]
    draw_comparison([read_run(folder) for folder in folders], tmp_path / "both.svg")
    assert {"a", "b", "accuracy", "training", "adam · 0.01"} <= texts(tmp_path / "both.svg")


class TestPanels:
    def test_the_ribbon_has_each_span_once_in_its_colour(self, axes, tmp_path):
        history = [
            report_runs.cycle(A, 1, 4),
            report_runs.cycle(A, 5, 8),
            report_runs.cycle(B, 9, 12, rolled_back=True),
            report_runs.cycle(A, 13, 20),
        ]
        run = read_run(report_runs.write(tmp_path, history))
        colours = candidate_colours(run.candidates)
        draw_ribbon(axes, run, colours)
        spans, others, ticks = axes.collections
        edges = [sorted({x for x, _ in path.vertices}) for path in (*spans.get_paths(), *others.get_paths())]
        assert edges == [[0.5, 8.5], [12.5, 20.5], [8.5, 12.5]]
        assert [segment[0][0] for segment in ticks.get_segments()] == [8.5, 12.5]
        assert axes.lines[0].get_xdata().tolist() == [10.5]

    def test_shares_fill_the_panel(self, axes, tmp_path):
        run = read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 10), report_runs.cycle(B, 11, 40)]))
        draw_shares(axes, run, candidate_colours(run.candidates))
        tops = [
            max(y for x, y in path.vertices if x == 40.5) for area in axes.collections for path in area.get_paths()
        ]
        assert tops == pytest.approx([0.25, 1.0])

    def test_losses_that_are_off_the_scale_are_marked_and_not_drawn(self, axes, tmp_path):
        values = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5] * 20
        values[10], values[50], values[70] = math.nan, 1e9, math.inf
        logs = [{"step": step, "loss": value} for step, value in enumerate(values, 1)]
        draw_losses(axes, read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 120)], logs)))
        assert axes.get_ylim()[1] < 1.1
        marked = next(line for line in axes.lines if line.get_label() == "off the scale or not finite")
        assert list(marked.get_xdata()) == [11, 51, 71]

    def test_evaluations_that_are_off_the_scale_are_marked_and_not_drawn(self, axes, tmp_path):
        values = [0.1, *(0.95 + 0.0001 * index for index in range(99))]
        logs = [{"step": step, "eval_accuracy": value} for step, value in enumerate(values, 1)]
        draw_metrics(axes, read_run(report_runs.write(tmp_path, [report_runs.cycle(A, 1, 100)], logs)))
        curve, mark = axes.lines
        bottom, top = axes.get_ylim()
        drawn = [value for value in curve.get_ydata() if math.isfinite(value)]
        assert len(drawn) == 99 and bottom < min(drawn) <= max(drawn) < top
        assert (
            list(mark.get_xdata()) == [1]
            and mark.get_marker() == "v"
            and mark.get_transform().transform((1, 0))[1] == (pytest.approx(axes.transData.transform((1, bottom))[1]))
        )

    def test_predictions_beside_their_scores(self, axes, tmp_path):
        known = {"predicted_mean": 0.1, "predicted_std": 0.05}
        history = [
            report_runs.cycle(A, 1, 4, **known, score=0.15),
            report_runs.cycle(B, 5, 8, **known, score=0.3),
            report_runs.cycle(B, 9, 12, **known, score=-1.0, rolled_back=True),
        ]
        run = read_run(report_runs.write(tmp_path, history))
        colours = candidate_colours(run.candidates)
        draw_calibration(axes, run, colours)
        points = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert [line.get_marker() for line in points] == ["o", "o", "v"]
        assert [line.get_xydata().tolist()[0] for line in points[:2]] == [[0.1, 0.15], [0.1, 0.3]]
        # Within two standard deviations, or hollow.
        assert [line.get_markerfacecolor() for line in points] == [colours[A].light, "none", "none"]
        bars = axes.collections[0].get_segments()
        assert bars[0].tolist() == [pytest.approx([0.0, 0.15]), pytest.approx([0.2, 0.15])] and len(bars) == 3
        # A score of -1 is at the edge, and does not stretch the scale.
        assert axes.get_ylim()[0] > 0


class TestScale:
    @pytest.mark.parametrize("value", [0.9477, -3.0, 1e-12, 0.0])
    def test_what_does_not_change_is_a_line_in_the_middle_of_a_tenth(self, axes, value):
        limits = set_scale(axes, [value, value])
        bottom, limit = axes.get_ylim()
        assert (
            (bottom, limit) == limits
            and limit > value > bottom
            and limit - value == pytest.approx(value - bottom, rel=1e-6)
        )
        assert limit - value >= 0.04999 * abs(value)

    def test_all_is_seen_where_nothing_stands_out(self, axes):
        bottom, top = set_scale(axes, [1.0, 1.5, 2.0])
        assert axes.get_ylim() == (bottom, top) and bottom < 1 and top > 2
        assert axes.get_yscale() == "linear"

    def test_a_high_start_is_on_the_scale_and_an_explosion_is_not(self, axes):
        falling = [0.5 + 0.001 * index for index in range(99)]
        assert set_scale(axes, [0.85, *falling])[1] > 0.85
        assert set_scale(axes, [1e5, *falling])[1] < 0.7

    def test_losses_over_many_powers_of_ten_are_logarithmic(self, axes):
        set_scale(axes, [10 ** (-index / 20) for index in range(80)])
        assert axes.get_yscale() == "log"
        assert [text.get_text() for text in axes.get_yticklabels()].count("1e-3") == 1

    @pytest.mark.parametrize("values", [[], [math.nan], [0.0, 0.0], [5.0], [-3.0, -3.0], [1e-300, 1e300]])
    def test_odd_values_have_limits(self, axes, values):
        set_scale(axes, values)
        bottom, top = axes.get_ylim()
        assert math.isfinite(bottom) and math.isfinite(top) and bottom < top
