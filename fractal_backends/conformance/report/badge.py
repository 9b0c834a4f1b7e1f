"""A report as a badge: one small picture for the README of a backend."""

from __future__ import annotations

from html import escape

from . import Report, Verdict
from .summary import Outcome, bounded, outcome_of

_COLOURS = {
    Outcome.CONFORMS: "#2c7a4b",
    Outcome.PARTIAL: "#8a6100",
    Outcome.FAILED: "#b3372f",
    Outcome.INTERRUPTED: "#666b73",
    Outcome.NOTHING_JUDGED: "#666b73",
}
_BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{title}">
  <title>{title}</title>
  <rect width="{width}" height="20" rx="3" fill="{colour}"/>
  <path d="M{split} 0v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444950"/>
  <g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">
    <text x="{padding}" y="14" textLength="{label_length}">{label}</text>
    <text x="{result_x}" y="14" textLength="{result_length}">{result}</text>
  </g>
</svg>
"""
_PADDING = 7
_WIDTH_OF_ANY = 7.0
_WIDTHS = {
    **dict.fromkeys("ijl", 3.1),
    **dict.fromkeys(" tfr", 4.2),
    **dict.fromkeys("csz", 5.8),
    **dict.fromkeys("aehknou", 6.8),
    **dict.fromkeys("m", 10.7),
}
"""How wide characters of Verdana are at 11 px, as far as they differ from most."""


def render_badge(report: Report) -> str:
    """The report as an SVG picture: "conformance 1", the suite's version, beside what came out.

    The picture fetches nothing, and says in words what it shows.
    """
    label, result = f"conformance {report.suite_version}", _result(report)
    label_length, result_length = _length(label), _length(result)
    split = label_length + 2 * _PADDING
    return _BADGE.format(
        width=split + result_length + 2 * _PADDING,
        split=split,
        colour=_COLOURS[outcome_of(report)],
        padding=_PADDING,
        label=escape(label),
        label_length=label_length,
        result=escape(result),
        result_x=split + _PADDING,
        result_length=result_length,
        title=escape(f"{_one_line(report.subject.name)}: {label}, {result}"),
    )


def _result(report: Report) -> str:
    outcome = outcome_of(report)
    if outcome is Outcome.FAILED:
        return f"{len(report.having(Verdict.FAILED))} failed"
    return {Outcome.CONFORMS: "passed", Outcome.PARTIAL: "partial"}.get(outcome, "not judged")


def _length(text: str) -> int:
    return round(sum(_WIDTHS.get(character, _WIDTH_OF_ANY) for character in text))


def _one_line(text: str) -> str:
    """Text without what may not be in XML, and no longer than a name."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return bounded(shown, characters=100, lines=1)
