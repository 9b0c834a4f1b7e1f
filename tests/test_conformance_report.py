"""How the outcome of the conformance suite is shown: on the terminal, as a page, as a badge."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from fractal_backends.cli.check_report import print_report
from fractal_backends.conformance.report import Report, Verdict
from fractal_backends.conformance.report.badge import render_badge
from fractal_backends.conformance.report.page import render_page
from fractal_backends.conformance.report.summary import Outcome, bounded, duration, outcome_of
from fractal_backends.conformance.requirements import areas, capabilities, requirements
from fractal_backends.errors import InvalidInputError
from fractal_backends.interface import OPTIONAL_ARGUMENTS
from tests.helpers.reports import (
    FAILURES,
    HOSTILE_REPORT,
    NOT_JUDGED,
    NOTHING,
    STORY,
    SUBJECT,
    TOTAL,
    Page,
    report,
    selected,
)

SCALE = sum(len(area.requirements) for area in areas() if area.key == "scale")


def shown(given: Report, *, width: int = 120, terminal: bool = False) -> str:
    """What is written to a file, or to a terminal."""
    stream = io.StringIO()
    colours: Any = "standard" if terminal else None
    print_report(given, Console(file=stream, width=width, force_terminal=terminal, color_system=colours))
    return stream.getvalue()


# What a report comes to


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (report(), Outcome.CONFORMS),
        (report(NOT_JUDGED), Outcome.CONFORMS),
        (report({"FILE-007": (Verdict.WARNING, ("new",))}), Outcome.CONFORMS),
        (selected("scale"), Outcome.PARTIAL),
        (report(FAILURES), Outcome.FAILED),
        (report(FAILURES, selection=("errors",)), Outcome.FAILED),
        (NOTHING, Outcome.NOTHING_JUDGED),
        (replace(NOTHING, selection=("scale",)), Outcome.NOTHING_JUDGED),
    ],
)
def test_a_selection_in_which_nothing_failed_is_not_conformance(given: Report, outcome: Outcome) -> None:
    assert outcome_of(given) is outcome


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (12.34, "12.3 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"), (3600, "60 min 0 s")],
)
def test_times_are_said_in_seconds_or_minutes(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_is_too_long_is_left_out_of_the_middle_and_that_is_said() -> None:
    lines = bounded("\n".join(map(str, range(100))), characters=80, lines=10).split("\n")
    assert lines == ["0", "1", "2", "3", "4", "5", "[91 lines left out]", "97", "98", "99"]
    assert bounded("a" * 6 + "b" * 94, characters=9, lines=1) == "aaaaaa [91 characters left out] bbb"
    assert bounded("a\nb", characters=1, lines=2) == "a\nb"


# The terminal


def test_the_table_has_a_row_for_each_area() -> None:
    rows = [line.split() for line in shown(report(FAILURES)).splitlines()]
    assert ["Area", "Passed", "Failed", "Warnings", "Not", "judged"] in rows
    numbers = {
        "Errors": (1, 0, 0),
        "Files": (0, 1, 0),
        "Hygiene": (1, 0, 0),
        "Capabilities": (0, 0, 1),
        "Faults": (0, 0, 2),
    }
    for area in areas():
        others = numbers.get(area.name, (0, 0, 0))
        passed = len(area.requirements) - sum(others)
        assert [*area.name.split(), str(passed), *map(str, others)] in rows


@pytest.mark.parametrize(
    ("given", "said", "counts"),
    [
        (report(), "conforms to", f"{TOTAL} requirements passed"),
        (report(NOT_JUDGED), "conforms to", f"{TOTAL - 3} requirements passed, 3 not judged"),
        (
            report(FAILURES),
            "does not conform to",
            f"2 requirements failed, {TOTAL - 6} passed, 1 warning, 3 not judged",
        ),
        (
            selected("scale"),
            "passes the selected part of",
            f"{SCALE} requirements passed, {TOTAL - SCALE} not judged",
        ),
        (NOTHING, "was not judged by", f"{TOTAL} not judged"),
    ],
)
@pytest.mark.parametrize("width", [40, 120])
def test_the_last_line_is_the_result(given: Report, said: str, counts: str, width: int) -> None:
    assert shown(given, width=width).endswith(f"\nlocal 0.1.0 {said} suite 1: {counts} (12.3 s)\n")


def test_a_backend_without_a_version_is_told_by_its_name() -> None:
    line = shown(report(subject=replace(SUBJECT, version=""))).splitlines()[-1]
    assert line.startswith("local conforms to suite 1: ")


def test_what_was_judged_in_part_is_told_with_the_reason() -> None:
    given = report({"FILE-007": (Verdict.PASSED, ("the disk is no disk", "the disk is no disk"))})
    printed = shown(given)
    assert re.search(r"(?s)Judged in part\n.*the disk is no disk\n.*FILE-007", printed)
    assert printed.count("the disk is no disk") == 1
    assert "the disk is no disk" in Page(render_page(given)).text()
    assert "Judged in part" not in shown(report())


def test_the_report_says_which_random_examples_there_were() -> None:
    given = replace(report(), seed=7, examples=100)
    assert "those of seed 7, 100 for each test" in shown(given)
    assert "those of seed 7, 100 for each test" in Page(render_page(given)).text()
    assert "the usual ones" in Page(render_page(report())).text()


def test_failures_are_told_before_warnings_and_what_was_not_judged() -> None:
    text = shown(report(FAILURES))
    story = "".join(f"    {line}\n" if line else "\n" for line in STORY.split("\n"))
    assert "\nERR-006  Successes are kept\n  What the units that succeeded did MUST" in text
    order = [
        *("\nFailed\n", "\nERR-006  ", f"\n\n{story}", "\nHYG-001  ", "    the first test's story\n"),
        *(
            "    the second test's story\n",
            "\nWarnings\n",
            "\nFILE-007  ",
            "    a story that does not count\n",
        ),
        *(
            "\nNot judged\n",
            "  it takes root (2)\n    FAULT-006, FAULT-008\n",
            "Files of the failed tests: kept/here",
        ),
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_what_was_not_selected_is_not_told_one_by_one() -> None:
    text = shown(selected("scale"))
    assert f"not selected ({TOTAL - SCALE})" in text
    assert "Scale" in text
    assert "Interface" not in text
    assert "IFACE-001" not in text


def test_what_there_is_none_of_has_no_heading() -> None:
    lines = shown(report()).splitlines()
    assert not {"Failed", "Warnings", "Not judged"} & set(lines)
    assert "kept/here" not in lines


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_given_no_orders_by_what_it_shows(terminal: bool) -> None:
    text = shown(HOSTILE_REPORT, terminal=terminal)
    without_styles = re.sub(r"\x1b\[[0-9;]*m", "", text) if terminal else text
    assert "<script>alert(1)</script>" in without_styles
    assert "[bold]x[/bold]" in without_styles
    assert all(character.isprintable() or character == "\n" for character in without_styles)
    assert bool(terminal) == ("\x1b[" in text)


def test_no_story_floods_the_terminal() -> None:
    endless = "begin\n" + "line\n" * 100_000 + "end"
    text = shown(report({"ERR-006": (Verdict.FAILED, (endless, "x" * 100_000, *["again"] * 200))}))
    assert len(text) < 8_000
    assert "    begin\n" in text
    assert "    end\n" in text
    assert "[199 more tests of this requirement failed]" in text
    assert len(shown(HOSTILE_REPORT)) < 20_000


# The page


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_page(report(FAILURES)))


@pytest.mark.parametrize(
    "given",
    [report(), report(FAILURES), selected("scale"), NOTHING, HOSTILE_REPORT],
    ids=lambda r: r.headline,
)
def test_the_page_stands_alone_and_is_sound(given: Report) -> None:
    page = Page(render_page(given))
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(tags)
    assert not page.values("src")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    style = page.text("style")
    assert "url(" not in style
    assert "@import" not in style
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("given", [report(), report(FAILURES), HOSTILE_REPORT], ids=lambda r: r.headline)
def test_every_link_leads_somewhere(given: Report) -> None:
    page = Page(render_page(given))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {href.removeprefix("#") for href in page.values("href")} <= set(ids)


def test_every_requirement_is_in_a_table_with_its_verdict(page: Page) -> None:
    rows = {a["id"]: a["class"] for tag, a in page.elements if tag == "tr" and "id" in a}
    assert list(rows) == list(requirements())
    for id, verdict in rows.items():
        expected = FAILURES[id][0] if id in FAILURES else Verdict.PASSED
        assert verdict == expected.replace(" ", "-")
    words = [data.strip() for path, data in page.texts if "td" in path and "details" not in path]
    assert [words.count(word) for word in ("Failed", "Warning", "Not judged")] == [2, 1, 3]
    assert words.count("Passed") == TOTAL - len(FAILURES)
    assert page.text("tbody").count("MUST") >= TOTAL - 10


def test_failures_come_first_with_their_whole_story(page: Page) -> None:
    stories = ["the first test's story", "the second test's story", "a story that does not count"]
    assert page.stories() == [f"\n{story}" for story in [STORY, *stories]]
    sections = [a["id"] for tag, a in page.elements if tag == "section" and "id" in a]
    keys = [area.key for area in areas()]
    assert sections == ["failed", "warning", "areas", *keys, "not-judged", "declared", "options"]
    failure = requirements()["ERR-006"]
    text = f"{failure.id} {failure.title} {failure.text}".replace("`", "")
    assert text in page.text("article")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (report(), "local 0.1.0 conforms to suite 1"),
        (report(FAILURES), "local 0.1.0 does not conform to suite 1"),
        (selected("scale"), "local 0.1.0 passes the selected part of suite 1"),
        (NOTHING, "local 0.1.0 was not judged by suite 1"),
    ],
)
def test_the_headline_says_what_came_out(given: Report, said: str) -> None:
    page = Page(render_page(given))
    assert page.text("h1") == page.text("title") == said
    assert ("no proof that the backend conforms" in page.text()) == bool(given.selection)


def test_the_facts_are_there(page: Page) -> None:
    facts = page.text("dl")
    expected = (
        "Failed 2; Warnings 1; Not judged 3; Backend local; Distribution fractal-backends-local 0.1.0; "
        "Interface version 1; Core version 0.2.0; When 3 June 2025, 14:05 UTC; Took 12.3 s; Python 3.11.7; "
        "Platform Linux 6.1 x86_64; Files of the failed tests kept/here; "
        "teleport This specification does not know it.; slurm_user refused; worker_init honoured; "
        'slurm_account not declared; memory 4G; parallel_tasks_per_job 4; limits {"a": [1, null]}'
    )
    assert [fact for fact in expected.split("; ") if fact not in facts] == []
    assert all(name in facts for name in (*capabilities(), *OPTIONAL_ARGUMENTS))
    assert "it takes root 2 FAULT-006 The disk is full FAULT-008" in page.text("details")


def test_a_time_of_another_zone_is_shown_in_utc_and_no_time_as_it_is() -> None:
    zone = replace(report(), started="2025-06-03T01:05:09+02:00")
    assert "When 2 June 2025, 23:05 UTC" in Page(render_page(zone)).text()
    assert "When yesterday" in Page(render_page(replace(report(), started="yesterday"))).text()


def test_text_is_text_on_the_page() -> None:
    html = render_page(HOSTILE_REPORT)
    assert "<script" not in html
    assert all(character.isprintable() or character == "\n" for character in html)
    page = Page(html)
    assert "<script>alert(1)</script> \"'& [bold]x[/bold]" in page.text("h1")
    assert "{{ 7 * 7 }} ]]>" in page.text("pre")


def test_long_stories_are_shown_by_their_beginning_and_their_end() -> None:
    endless = "begin\n" + "line\n" * 100_000 + "x" * 100_000 + "end"
    html = render_page(report({"ERR-006": (Verdict.FAILED, (endless, *["again"] * 200))}))
    story, *others = Page(html).stories()
    assert story.startswith("\nbegin\nline\n")
    assert story.endswith("xend")
    assert "lines left out]" in story
    assert len(others) == 19
    assert "181 more tests of this requirement failed." in html
    assert len(html) < 200_000


def test_a_page_without_jinja2_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'fractal-backends\[conformance\]'"):
        render_page(report())


# The badge


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (report(NOT_JUDGED), "passed"),
        (report(FAILURES), "2 failed"),
        (report(FAILURES, selection=("errors",)), "2 failed"),
        (selected("scale"), "partial"),
        (NOTHING, "not judged"),
    ],
)
def test_the_badge_has_the_suite_and_the_result(given: Report, result: str) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    badge = ET.fromstring(render_badge(given))
    label, right = badge.iter(f"{svg}text")
    assert (label.text, right.text) == ("conformance 1", result)
    assert badge.get("aria-label") == badge.findtext(f"{svg}title") == f"local: conformance 1, {result}"
    end_of_label = float(label.get("x", "")) + float(label.get("textLength", ""))
    end = float(right.get("x", "")) + float(right.get("textLength", ""))
    assert end_of_label < float(right.get("x", "")) < end < float(badge.get("width", ""))
    assert 4 < float(right.get("textLength", "")) / len(result) < 9


def test_text_is_text_on_the_badge() -> None:
    badge = ET.fromstring(render_badge(HOSTILE_REPORT))
    assert {element.tag.partition("}")[2] for element in badge.iter()} == {
        "svg",
        "title",
        "rect",
        "path",
        "g",
        "text",
    }
    assert "<script>alert(1)</script>" in badge.get("aria-label", "")
    assert len(badge.get("aria-label", "")) < 200
