"""The report: what it says, that nothing in it can act or hide, and that it is whole or not there."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import plaudit.evaluation.report.write as writing
from plaudit.evaluation import Estimate, EvaluationError
from plaudit.evaluation.report import (
    Climb,
    Curve,
    FeedbackSummary,
    Row,
    RunReport,
    RunWarning,
    Sample,
    render_html,
    render_markdown,
    write_report,
)
from plaudit.evaluation.report.escaping import markdown_block, markdown_inline, visible
from plaudit.evaluation.report.forest import forest
from plaudit.profile_figures import PHASES, Figures, PhaseCounts

from .example_report import example_report

ATTACKS = (
    "<script>alert(1)</script>",
    "]]></style><img src=x onerror=alert(1)>",
    '"\' onmouseover="alert(1)',
    "</p></article></main><iframe src=//evil.example>",
    "{{ 7 * 7 }} {% raw %}",
    "a\u202etxt.exe\u2066\u200b\x00\ud83d\U000e0041",
    "| a | b |\n|---|---|\n```\n# title\n[x](javascript:alert(1)) ![i](http://evil.example/i.png) &lt;",
)
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")


@pytest.fixture(scope="module")
def report() -> RunReport:
    return example_report()


def estimate(value=0.6, low=0.5, high=0.7, unit="share", **fields) -> Estimate:
    return Estimate(
        value, low, high, fields.get("n", 100), fields.get("level", 0.95), "m", unit, fields.get("clusters")
    )


def small_report(**fields) -> RunReport:
    defaults = {
        "title": "t", "created": datetime(2026, 1, 2, tzinfo=UTC), "method": "dpo", "model": "m", "verdict": "v.",
        "headline": (Row("win rate", estimate(), "up", 0.5, "e"),), "feedback": FeedbackSummary({}, {}, 0, 0, 0, 0),
    }  # fmt: skip
    return RunReport(**{**defaults, **fields})


def hostile_report(text: str) -> RunReport:
    """A report in which every text is the attack."""
    return small_report(
        title=text, method=text, model=text, verdict=text, score_name=text, commands=(text,),
        headline=(
            Row(text, replace(estimate(unit=text), method=text), "up", 0.5, text),
            Row(text, estimate(), None, 0.5, text),
            Row(text, estimate(unit=text), None, None, text),
        ),
        feedback=FeedbackSummary({text: 1}, {text: 1}, 1, 0, 1, 1, {text: 1}),
        curves={text: Curve((0.0, 1.0), (1.0, 2.0), text, explanation=text), text + "2": Curve((0.0,), (math.nan,))},
        samples=(Sample(text, text, text, 1.0, 2.0),), warnings=(RunWarning(text, text, text),),
        environment={text: text}, config={text: [text]},
    )  # fmt: skip


class Page(HTMLParser):
    """The page's elements, attributes and text, with a check that every element is closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


class TestSafety:
    @pytest.mark.parametrize("attack", ATTACKS)
    def test_text_never_becomes_an_element_or_attribute(self, attack):
        hostile, tame = Page(render_html(hostile_report(attack))), Page(render_html(hostile_report("tame")))
        assert hostile.open == []
        assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in tame.elements]
        assert [sorted(a) for _, a in hostile.elements] == [sorted(a) for _, a in tame.elements]

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_nothing_is_hidden(self, attack):
        for text in (render_html(hostile_report(attack)), render_markdown(hostile_report(attack))):
            assert not HIDDEN.search(text)
        if "\u202e" in attack:
            assert "a⟨U+202E⟩txt.exe⟨U+2066⟩⟨U+200B⟩⟨U+0000⟩⟨U+D83D⟩⟨U+E0041⟩" in text

    def test_the_page_loads_and_runs_nothing(self, report):
        html = render_html(report)
        page = Page(html)
        policy = page.all("meta")[1]
        assert policy["http-equiv"] == "Content-Security-Policy"
        assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        assert not {"script", "link", "iframe", "img", "object", "embed", "form", "base"} & {
            t for t, _ in page.elements
        }
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("href", "src", "xlink:href"):
                assert attributes.get(name, "#").startswith("#"), (tag, attributes)
        assert "http://" not in html
        assert "https://" not in html
        assert "@import" not in html
        assert not re.search(r"url\((?!#)", html)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_markdown_shows_text_as_text(self, attack):
        """Rendered by a CommonMark renderer with tables, the attack makes no element that a tame text does not."""
        render = MarkdownIt("commonmark", {"html": True}).enable("table").render
        hostile = Page(render(render_markdown(hostile_report(attack))))
        tame = Page(render(render_markdown(hostile_report("tame"))))
        assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in tame.elements]
        assert not hostile.all("script")

    def test_visible_leaves_languages_and_emoji_alone(self):
        text = "añ 漢字 \t العربية می‌خواهم 👩‍👩‍👧 ❤️\n"
        assert visible(text) == text
        assert visible("a\r\nb\rc") == "a\nb⟨U+000D⟩c"

    def test_fences_outgrow_the_text(self):
        assert markdown_block("a ```` b").startswith("`````text\n")
        assert markdown_block("") == "```text\n(nothing)\n```"
        assert markdown_inline("a|b\n*c*") == r"a\|b \*c\*"


class TestPage:
    def test_first_comes_the_verdict_then_the_interval_plot(self, report):
        html = render_html(report)
        places = [html.index(part) for part in (report.verdict, 'id="headline"', 'class="strip"', 'id="learned"')]
        assert places == sorted(places)
        order = ["headline", "learned", "curves", "calibration", "lengths", "samples", "warnings", "reproduce"]
        found = re.findall(r'<h2 id="(\w+)"', html)
        assert found == order

    def test_every_figure_comes_with_its_interval_and_n(self, report):
        for text in (render_html(report), render_markdown(report).replace("\\", "")):
            for row in report.headline:
                assert row.estimate.number(row.estimate.value) in text
                assert row.estimate.interval in text
                assert row.estimate.method in text

    def test_is_accessible(self, report):
        page = Page(render_html(report))
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == 1
        assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
        assert all(header["scope"] in ("row", "col") for header in page.all("th"))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        links = [attributes["href"][1:] for _, attributes in page.elements if "href" in attributes]
        assert set(links) <= set(ids)

    def test_plots_are_text_and_take_the_pages_colours(self, report):
        html = render_html(report)
        plots = re.findall(r'<svg class="plot".*?</svg>', html, flags=re.DOTALL)
        assert len(plots) == 5
        assert all("<text" in plot and "nats" in plots[0] for plot in plots)
        assert not re.search(r"#[0-9a-fA-F]{6}\b", "".join(plots))
        assert "var(--series)" in plots[0]

    def test_colours_have_contrast_in_light_and_dark(self):
        """WCAG 2.1: text 4.5 to 1 on both backgrounds, lines that carry meaning 3 to 1."""
        css = (Path(writing.__file__).parent / "report.css").read_text(encoding="utf-8")
        light, dark = css.split("@media")[:2]
        assert "prefers-color-scheme: dark" in dark
        for block in (light, dark):
            colours = dict(re.findall(r"--(\w[\w-]*): (#\w{6})", block))
            for ground in ("page", "card"):
                for text in ("ink", "soft", "link", "better", "worse", "unclear"):
                    assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)
                assert contrast(colours["series"], colours[ground]) >= 3
            assert contrast(colours["ink"], colours["warn-page"]) >= 4.5
            assert contrast(colours["link"], colours["warn-page"]) >= 4.5

    def test_parts_without_data_are_left_out(self):
        html = render_html(small_report())
        assert re.findall(r'<h2 id="(\w+)"', html) == ["headline", "learned", "warnings", "reproduce"]
        assert "None of the checks found anything." in html
        assert "None of the checks found anything." in render_markdown(small_report())

    def test_a_curve_without_values_is_named(self):
        report = small_report(curves={"gone": Curve((0.0, 1.0), (math.nan, math.inf))})
        for text in (render_html(report), render_markdown(report)):
            assert "Recorded without one finite value: gone." in text

    def test_plots_cope_with_one_point_gaps_and_other_scripts(self):
        curves = {
            "one": Curve((5.0,), (1.0,)),
            "漢字 $x$": Curve((0.0, 1.0, 2.0), (1.0, math.nan, 2.0), "漢字/$s$"),
            "wide": Curve((0.0, 1e6), (1e-9, 1e9), low=(0.0, 0.0), high=(1.0, 2e9)),
        }
        html = render_html(small_report(curves=curves))
        assert html.count('class="plot"') == 3
        assert "漢字/$s$" in html

    def test_a_share_is_drawn_in_percent(self):
        curve = Curve((0.0, 1.0), (0.5, 0.75), "share", (0.4, 0.6), (0.6, 0.8))
        html = render_html(small_report(curves={"accuracy": curve}))
        assert "accuracy over steps: 50 at step 0, 75 at step 1" in html
        assert re.search(r">%</text>", html)

    def test_same_report_same_bytes(self, report):
        assert render_html(report) == render_html(report)


class TestForest:
    def test_better_is_always_to_the_right(self):
        up = forest([Row("up", estimate(0.6, 0.55, 0.65), "up", 0.5, "")])[0]
        down = forest([Row("down", estimate(-0.04, -0.06, -0.02, "points"), "down", 0.0, "")])[0]
        assert up.value > 50
        assert down.value > 50
        assert 50 < down.low < down.high
        assert (up.left_label, up.null_label, up.right_label) == ("30 %", "50 %", "70 %")
        assert (down.left_label, down.null_label, down.right_label) == ("8.0", "0.0", "-8.0")

    def test_rows_of_one_unit_share_a_scale(self):
        wide, narrow = forest(
            [Row("a", estimate(0.7, 0.6, 0.8), "up", 0.5, ""), Row("b", estimate(0.52, 0.5, 0.54), "up", 0.5, "")]
        )
        assert wide.right_label == narrow.right_label
        assert (wide.value - 50) == pytest.approx(10 * (narrow.value - 50))

    def test_no_interval_fills_the_strip(self):
        strip = forest([Row("a", estimate(3.0, -math.inf, math.inf, ""), "up", 0.0, "")])[0]
        assert (strip.low, strip.high) == (0.0, 100.0)

    def test_rows_without_null_are_left_out(self):
        assert forest([Row("a", estimate(), "up", None, "")]) == ()

    def test_a_figure_at_the_null_without_width_has_a_place(self):
        strip = forest([Row("a", estimate(0.0, 0.0, 0.0, "nats"), "down", 0.0, "")])[0]
        assert (strip.low, strip.value, strip.high) == (50.0, 50.0, 50.0)

    @pytest.mark.parametrize(
        ("low", "high", "better", "null", "reading"),
        [
            (0.51, 0.6, "up", 0.5, "better"),
            (0.51, 0.6, "down", 0.5, "worse"),
            (0.4, 0.49, "up", 0.5, "worse"),
            (0.4, 0.49, "down", 0.5, "better"),
            (0.5, 0.6, "up", 0.5, "no clear change"),
            (0.51, 0.6, None, 0.5, "higher"),
            (0.4, 0.49, None, 0.5, "lower"),
            (0.4, 0.49, "up", None, "not compared"),
        ],
    )
    def test_readings(self, low, high, better, null, reading):
        assert Row("a", estimate((low + high) / 2, low, high), better, null, "").reading == reading


def test_importing_the_report_does_not_load_what_only_writing_needs():
    code = (
        "import sys, plaudit.evaluation.report; print({'torch', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


class TestFiles:
    def test_round_trip(self, report, tmp_path):
        html, markdown = write_report(report, tmp_path / "run")
        assert (html.name, markdown.name) == ("report.html", "report.md")
        assert RunReport.from_json((tmp_path / "run" / "report.json").read_text(encoding="utf-8")) == report
        assert sorted(path.name for path in html.parent.iterdir()) == ["report.html", "report.json", "report.md"]

    def test_round_trip_of_what_json_lacks(self):
        report = small_report(
            headline=(Row("a", estimate(1.0, -math.inf, math.inf), "up", 0.0, ""),),
            curves={"c": Curve((0.0, 1.0), (math.nan, math.inf))},
        )
        read = RunReport.from_json(report.to_json())
        assert read.headline == report.headline
        assert math.isnan(read.curves["c"].values[0])
        assert read.curves["c"].values[1] == math.inf
        json.loads(report.to_json(), parse_constant=pytest.fail)
        assert RunReport.from_json(small_report(title="\ud83d!").to_json()).title == "\ufffd!"

    def test_a_writer_that_dies_leaves_the_old_report(self, report, tmp_path, monkeypatch):
        write_report(report, tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def die(_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", die)
        with pytest.raises(OSError, match="disk full"):
            write_report(replace(report, title="new"), tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_messages(self):
        with pytest.raises(
            EvaluationError, match=r"report\.json: title: Input should be a valid string \(\d such places"
        ):
            RunReport.from_json('{"title": 3}')
        with pytest.raises(EvaluationError, match=r"report\.json: the document: Invalid JSON"):
            RunReport.from_json("{")
        with pytest.raises(EvaluationError, match="steps: expected as many numbers as values has, 2, got 1"):
            Curve((0.0,), (1.0, 2.0))
        with pytest.raises(EvaluationError, match="low, high: expected both or neither"):
            Curve((0.0,), (1.0,), low=(0.0,))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_profile_is_a_table_in_page_and_markdown_and_survives_json(tmp_path):
    phases = {name: PhaseCounts() for name in PHASES}
    phases["forward"] = PhaseCounts(2.0, 3000, 100, 4 * 10**12)
    phases["idle"] = PhaseCounts(6.0)
    measured = small_report(profile=Figures(phases, 2e12, "bfloat16", 2**30))
    html, markdown = render_html(measured), render_markdown(measured)
    assert '<tr><th scope="row">forward</th><td class="number">2.0 s</td><td class="number">25.0 %</td>' in html
    assert "| forward | 2.0 s | 25.0 % | 3,000 | 100 | 4 | 2e+03 | 100.0 % |" in markdown
    for text in (html, markdown):
        assert "375 tokens/s, 25.0 % of the 2,000 GFLOP/s" in text
    assert RunReport.from_json(measured.to_json()) == measured
    assert "Where the time went" not in render_html(small_report()) + render_markdown(small_report())


def test_what_the_distance_bought_is_a_plot_a_table_and_survives_json():
    looks = Climb((0, 5, 10), (0.0, 1.5, 3.0), (0.1, 0.9, 0.7), gold=(0.2, 0.3, -0.1))
    measured = small_report(climb=looks)
    html, markdown = render_html(measured), render_markdown(measured)
    assert "Reward against distance: step 0: 0.1 at 0 nats; step 5: 0.9 at 1.5 nats; step 10: 0.7 at 3 nats." in html
    assert "second reward (gold)" in html
    assert "| 10 | 3 | 0.7 | -0.1 |" in markdown
    assert "| 10 | 3 | 0.7 |\n" in render_markdown(small_report(climb=replace(looks, gold=None)))
    assert RunReport.from_json(measured.to_json()) == measured
    assert "the distance from the model before" not in render_html(small_report()) + render_markdown(small_report())
