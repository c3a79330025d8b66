from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
import report_runs

from hf_iomt.report import REPORT_NAME, read_run, summarize_run, write_report
from hf_iomt.report.panels import draw_metrics
from hf_iomt.report.style import figure_style, make_figure
from hf_iomt.report.svg import colour_variables, inline_svg

VOID = {"meta", "link", "br", "img", "path", "use", "rect", "stop", "line", "circle"}


class Reader(HTMLParser):
    """The elements of a page, in order, with the text within each; it complains of what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data):
        for index in self._open:
            self.elements[index][2].append(data)

    def texts(self, tag):
        return ["".join(parts).strip() for name, _, parts in self.elements if name == tag]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    return [
        report_runs.long_run(path / "first & <best>", 12),
        report_runs.long_run(path / "second", 6, candidates=["adamw:lr=0.001"], evaluations=0),
    ]


@pytest.fixture(scope="module")
def single(folders, tmp_path_factory):
    page = write_report(folders[:1], tmp_path_factory.mktemp("single"))
    assert page.name == REPORT_NAME
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def both(folders, tmp_path_factory):
    return write_report(folders, tmp_path_factory.mktemp("both") / "any" / "name.html").read_text(encoding="utf-8")


def test_needs_nothing_else_to_be_read(single, both):
    for text in (single, both):
        # Names of XML are no addresses that anything is loaded from.
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', text)) == {"data:,"}
        assert set(re.findall(r"url\(([^)]*)", text)) == set(re.findall(r"url\((#[^)]*)", text))
        assert "<script" not in text and "@import" not in text


def test_identifiers_are_unique_and_all_that_is_referred_to_is_there(both):
    identifiers = re.findall(r'\bid="([^"]*)"', both)
    assert len(identifiers) == len(set(identifiers))
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]*)', both))
    assert referred and referred <= set(identifiers)


def test_headings_have_an_order(single, both):
    for text in (single, both):
        levels = [int(name[1]) for name, _, _ in Reader(text).elements if re.fullmatch("h[1-6]", name)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_figures_have_descriptions_and_captions(single):
    reader = Reader(single)
    pictures = reader.attributes("svg")
    assert len(pictures) == 2 * 7 and len(reader.texts("figcaption")) == len(reader.texts("figure")) == 7
    assert all(item["role"] == "img" and len(item["aria-label"]) > 25 for item in pictures)


def test_text_of_figures_is_text_and_colours_follow_the_theme(single):
    assert {"optimizer step", "smoothed", "share of steps so far"} <= set(Reader(single).texts("text"))
    # No colour is left in a picture that would not change with the theme, but those that are seen on both.
    drawn = "".join(re.findall(r"<svg.*?</svg>", single, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#d55e00", "#f0e442", "#000000"}
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", single)), set(re.findall(r"(--[\w-]+):", single))
    assert used <= defined


def test_labels_of_axes_keep_their_digits(tmp_path):
    logs = [{"step": 10 * step, "eval_accuracy": 0.972 + 0.0004 * step} for step in range(1, 21)]
    folder = report_runs.write(tmp_path / "run 0.12345", [report_runs.cycle("adam:lr=0.001", 1, 200)], logs)
    run = read_run(folder)
    with figure_style():
        figure = make_figure(8, 3)
        axes = figure.add_subplot()
        draw_metrics(axes, run)
        variables = colour_variables({})
        text = inline_svg(figure, "a", "from 0.9724 to 0.98", variables)
        labels = {item.get_text() for item in axes.get_yticklabels()}
    assert {"0.974", "0.978"} <= labels
    assert labels & {"0.974", "0.976", "0.978"} <= set(Reader(text).texts("text"))
    assert 'aria-label="from 0.9724 to 0.98"' in text
    # Coordinates are short.
    assert not re.search(r'd="[^"]*\.\d{3}', text)


def test_the_summary_is_that_of_the_run(single, folders):
    items = Reader(single).texts("li")
    assert items[: len(summarize_run(read_run(folders[0])))] == summarize_run(read_run(folders[0]))


def test_tables_hold_the_data(single, folders):
    run, reader = read_run(folders[0]), Reader(single)
    captions = reader.texts("caption")
    assert captions == [
        "Training losses",
        "Evaluations",
        "Candidates; steps with, cycles without the race",
        "Predictions and scores",
        "Time by part",
        "Parts of ω_t",
        "Cycles; in the race, undone means that the entrant did damage",
        "Settings of IOMT",
        "Trainer's arguments, where not the default",
    ]
    tables = dict(zip(captions, re.findall(r"<table>.*?</table>", single, re.DOTALL), strict=True))
    assert tables[captions[6]].count("<tr>") == 1 + len(run.history)
    assert tables["Evaluations"].count("<tr>") == 1 + 12
    assert "iomt_switch_steps" in tables["Settings of IOMT"] and "0.452" in tables["Parts of ω_t"]


def test_names_are_text_whatever_they_are(single, both):
    for text in (single, both):
        assert "first &amp; &lt;best&gt;" in text and "<best>" not in text


def test_without_predictions_it_says_so(both):
    assert "<p>No predictions: there is one candidate, and nothing to choose.</p>" in both


def test_several_runs_are_compared_first(both):
    reader = Reader(both)
    assert reader.texts("h2") == ["Comparison", "first & <best>", "second"]
    assert reader.texts("h3")[:4] == ["Loss", "Evaluation: accuracy", "Who made the steps", "Time"]
    assert reader.texts("caption")[0] == "Runs, with the last value of each metric"
    assert [item["href"] for item in reader.attributes("a")] == ["#run-0", "#run-1"]


def test_a_candidate_has_one_colour_in_all_runs(folders, tmp_path):
    again = report_runs.long_run(tmp_path / "again", 4, candidates=report_runs.PAPER[::-1])
    text = write_report([folders[0], again], tmp_path).read_text(encoding="utf-8")
    squares = re.findall(r'background: var\((--c-\w+)\)"></span>sgdm · 0\.1<', text)
    assert len(squares) == 5 and len(set(squares)) == 1


def test_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no run to report on: give at least one folder"):
        write_report([], tmp_path)


def test_a_race_is_spoken_of_where_there_was_one(single, tmp_path):
    without = write_report([report_runs.long_run(tmp_path / "run", 6, race=False)], tmp_path).read_text(
        encoding="utf-8"
    )
    for text, raced in ((single, True), (without, False)):
        reader = Reader(text)
        captions = [*reader.texts("caption"), *reader.texts("figcaption")]
        # What the time went to is the same list everywhere.
        assert any("race" in caption for caption in captions if "probes" not in caption) == raced
