"""The outcome of the conformance suite on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from ..conformance.report import NOT_SELECTED, Judgement, Report, Verdict
from ..conformance.report.summary import (
    Outcome,
    bounded,
    by_area,
    counts_in_words,
    duration,
    examples_in_words,
    judged_in_part_by_reason,
    not_judged_by_reason,
    outcome_of,
    verdict_in_words,
)
from .terminal import add_row, harmless, make_table, one_line

_STORIES = 3
_LINES = 40
_CHARACTERS = 400
_CHARACTERS_OF_A_NAME = 100
_WIDTH_OF_PROSE = 100
_COLUMNS = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.WARNING: "yellow",
    Verdict.NOT_JUDGED: "default",
}
_STYLES = {Outcome.CONFORMS: "bold green", Outcome.FAILED: "bold red"}


def print_report(report: Report, console: Console) -> None:
    """Show a report: a table by area, what failed and why, warnings, what was not judged, the result.

    Stories are shown up to a bound, their beginning and their end; the result is the last line.
    """
    _print_areas(report, console)
    _print_stories("Failed", "red", report.having(Verdict.FAILED), console)
    _print_stories("Warnings", "yellow", report.having(Verdict.WARNING), console)
    _print_not_judged("Judged in part", judged_in_part_by_reason(report), report, console)
    _print_not_judged("Not judged", not_judged_by_reason(report), report, console)
    if report.folder is not None and report.having(Verdict.FAILED):
        _print(console, f"Files of the failed tests: {one_line(report.folder)}\n")
    if report.seed is not None or report.examples is not None:
        _print(console, f"Random examples: {examples_in_words(report)}\n")
    _print(console, _result(report), style=_STYLES.get(outcome_of(report), "bold"))


def _print_areas(report: Report, console: Console) -> None:
    table = make_table("Area", "Passed>", "Failed>", "Warnings>", "Not judged>")
    for summary in by_area(report):
        if summary.is_left_out:
            continue
        counts = [_number(summary.count(verdict), style) for verdict, style in _COLUMNS.items()]
        add_row(table, summary.area.name, *counts)
    console.print(table)


def _number(count: int, style: str) -> Text:
    return Text(str(count), style=style if count else "dim")


def _print_stories(title: str, colour: str, judgements: Sequence[Judgement], console: Console) -> None:
    if not judgements:
        return
    _print(console, f"{title}\n", style=f"bold {colour}")
    for judgement in judgements:
        requirement = judgement.requirement
        _print(console, f"{requirement.id}  {requirement.title}", style="bold")
        _print(console, _prose(requirement.text, console, indent="  "))
        for reason in judgement.reasons[:_STORIES]:
            story = bounded(reason.strip("\n"), characters=_CHARACTERS, lines=_LINES)
            _print(console, "\n" + textwrap.indent(story, "    "))
        left_out = len(judgement.reasons) - _STORIES
        if left_out > 0:
            tests = "test" if left_out == 1 else "tests"
            _print(console, f"\n    [{left_out} more {tests} of this requirement failed]")
        console.print()


def _print_not_judged(
    title: str, groups: Mapping[str, Sequence[Judgement]], report: Report, console: Console
) -> None:
    if not groups:
        return
    _print(console, f"{title}\n", style="bold")
    for reason, judgements in groups.items():
        story = bounded(reason.strip(), characters=_CHARACTERS, lines=_LINES)
        count = f" ({len(judgements)})" if len(judgements) > 1 else ""
        _print(console, textwrap.indent(story + count, "  "))
        if reason != NOT_SELECTED:
            _print(console, _prose(_listed(judgements, report), console, indent="    "), style="dim")
    console.print()


def _listed(judgements: Sequence[Judgement], report: Report) -> str:
    """Requirements by their ids, areas that are in it as a whole by their names."""
    ids = {judgement.requirement.id for judgement in judgements}
    names: list[str] = []
    for summary in by_area(report):
        of_area = [judgement.requirement.id for judgement in summary.judgements]
        if len(of_area) > 1 and ids.issuperset(of_area):
            names.append(f"all of {summary.area.name}")
        else:
            names += [id for id in of_area if id in ids]
    return ", ".join(names)


def _result(report: Report) -> str:
    named = (report.subject.name, report.subject.version, verdict_in_words(report))
    said = (bounded(one_line(text), characters=_CHARACTERS_OF_A_NAME, lines=1) for text in named if text)
    return f"{' '.join(said)}: {counts_in_words(report)} ({duration(report.seconds)})"


def _prose(text: str, console: Console, *, indent: str) -> str:
    width = max(20, min(console.width, _WIDTH_OF_PROSE))
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(harmless(text), style=style), soft_wrap=True)
