"""A report in few words: what the terminal, the page and the badge say alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ..requirements import Area, areas
from . import NOT_SELECTED, Judgement, Report, Verdict


class Outcome(StrEnum):
    """What a report comes to."""

    CONFORMS = "conforms"
    PARTIAL = "partial"
    """Nothing failed, and not everything was to be judged."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Nothing had failed when the check was interrupted."""
    NOTHING_JUDGED = "nothing judged"


@dataclass(frozen=True)
class AreaSummary:
    """The judgements of one area."""

    area: Area
    judgements: tuple[Judgement, ...]

    @property
    def is_left_out(self) -> bool:
        """Whether nothing of the area was asked for."""
        return all(judgement.reasons == (NOT_SELECTED,) for judgement in self.judgements)

    @property
    def worst(self) -> Verdict:
        """The verdict that says most: that something failed, else a warning, else that something passed."""
        order = (Verdict.FAILED, Verdict.WARNING, Verdict.PASSED, Verdict.NOT_JUDGED)
        return next((verdict for verdict in order if self.count(verdict)), Verdict.NOT_JUDGED)

    def count(self, verdict: Verdict) -> int:
        """How many have this verdict."""
        return sum(judgement.verdict is verdict for judgement in self.judgements)


def outcome_of(report: Report) -> Outcome:
    """What the report comes to; a selection in which nothing failed is no proof that the backend conforms."""
    if report.having(Verdict.FAILED):
        return Outcome.FAILED
    if report.interrupted:
        return Outcome.INTERRUPTED
    if not report.conforms:
        return Outcome.NOTHING_JUDGED
    return Outcome.PARTIAL if report.selection else Outcome.CONFORMS


def verdict_in_words(report: Report) -> str:
    """The outcome as what is said of the backend: "conforms to suite 1"."""
    suite = f"suite {report.suite_version}"
    return {
        Outcome.CONFORMS: f"conforms to {suite}",
        Outcome.PARTIAL: f"passes the selected part of {suite}",
        Outcome.FAILED: f"does not conform to {suite}",
        Outcome.INTERRUPTED: f"was not judged to the end by {suite}",
        Outcome.NOTHING_JUDGED: f"was not judged by {suite}",
    }[outcome_of(report)]


def counts_in_words(report: Report) -> str:
    """How many requirements have which verdict: "3 requirements failed, 114 passed, 1 warning"."""
    count = {verdict: len(report.having(verdict)) for verdict in Verdict}
    warnings = "warning" if count[Verdict.WARNING] == 1 else "warnings"
    words = {
        Verdict.FAILED: "failed",
        Verdict.PASSED: "passed",
        Verdict.WARNING: warnings,
        Verdict.NOT_JUDGED: "not judged",
    }
    parts = [f"{count[verdict]} {word}" for verdict, word in words.items() if count[verdict]]
    first = next((verdict for verdict in words if count[verdict]), None)
    if first in (Verdict.FAILED, Verdict.PASSED):
        noun = "requirement" if count[first] == 1 else "requirements"
        parts[0] = f"{count[first]} {noun} {words[first]}"
    return ", ".join(parts) or "no requirements"


def examples_in_words(report: Report) -> str:
    """Which random examples there were: "those of seed 7, 100 for each test"."""
    which = "the usual ones" if report.seed is None else f"those of seed {report.seed}"
    return which if report.examples is None else f"{which}, {report.examples} for each test"


def by_area(report: Report) -> list[AreaSummary]:
    """The judgements of each area, in order."""
    found = []
    for area in areas():
        ids = {requirement.id for requirement in area.requirements}
        judgements = tuple(judgement for judgement in report.judgements if judgement.requirement.id in ids)
        found.append(AreaSummary(area, judgements))
    return found


def not_judged_by_reason(report: Report) -> dict[str, list[Judgement]]:
    """What was not judged, by the reason why, in the order in which the reasons come up."""
    return _by_reason(report.having(Verdict.NOT_JUDGED))


def judged_in_part_by_reason(report: Report) -> dict[str, list[Judgement]]:
    """What passed as far as it was judged, by the reason why the rest was not."""
    return _by_reason(judgement for judgement in report.having(Verdict.PASSED) if judgement.reasons)


def _by_reason(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        reason = "; ".join(dict.fromkeys(judgement.reasons)) or "no reason was given"
        found.setdefault(reason, []).append(judgement)
    return found


def duration(seconds: float) -> str:
    """A time as it is said: "0.3 s", "12.3 s", "4 min 5 s"."""
    if seconds < 99.95:  # what would be shown as 100.0 s or more is told in minutes
        return f"{seconds:.1f} s"
    return "{} min {} s".format(*divmod(round(seconds), 60))


def bounded(text: str, *, characters: int, lines: int) -> str:
    """Text of at most so many lines with so many characters each; what is left out is left out of the middle.

    The beginning of a story says what was done, its end what came of it.
    """
    found = text.split("\n")
    if len(found) > lines:
        left_out = len(found) - lines + 1
        head, tail = _around_gap(lines - 1)
        found = [*found[:head], f"[{left_out:,} lines left out]", *found[len(found) - tail :]]
    return "\n".join(_bounded_line(line, characters) for line in found)


def _bounded_line(line: str, characters: int) -> str:
    if len(line) <= characters:
        return line
    head, tail = _around_gap(characters)
    left_out = len(line) - characters
    return f"{line[:head]} [{left_out:,} characters left out] {line[len(line) - tail :]}"


def _around_gap(size: int) -> tuple[int, int]:
    """How much of a beginning and of an end makes up this size."""
    return size - size // 3, size // 3
