"""A report as a page: one HTML file that needs nothing else, for people to read, keep and send."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInputError
from ...interface import OPTIONAL_ARGUMENTS
from ..requirements import capabilities
from . import Report, Subject, Verdict
from .summary import (
    bounded,
    by_area,
    duration,
    examples_in_words,
    judged_in_part_by_reason,
    not_judged_by_reason,
    outcome_of,
    verdict_in_words,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_STORIES = 20
_LINES = 400
_CHARACTERS = 2_000
_CODE = re.compile(r"(`+)(.+?)\1")


def render_page(report: Report) -> str:
    """The report as one HTML file: no scripts, nothing to fetch, readable in light, in dark and on paper.

    Whatever is in names and reasons is shown as text, lines and stories of great length in part.
    Raises InvalidInputError where jinja2 is not installed.
    """
    page: str = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            subject=report.subject,
            outcome=outcome_of(report),
            said=verdict_in_words(report),
            numbers={verdict: len(report.having(verdict)) for verdict in Verdict},
            areas=[summary for summary in by_area(report) if summary.judgements],
            in_part=judged_in_part_by_reason(report),
            not_judged=not_judged_by_reason(report),
            anchors=_anchors(report),
            shown_verdicts=[verdict for verdict in Verdict if report.having(verdict)],
            labels={verdict: verdict.value.capitalize() for verdict in Verdict},
            stories_shown=_STORIES,
            capabilities=_capabilities(report.subject),
            arguments=_arguments(report.subject),
            options={key: _as_text(value) for key, value in report.subject.options.items()},
            started=_moment(report.started),
            examples=examples_in_words(report),
        )
    )
    return page


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise InvalidInputError(
            "A page needs jinja2, which is not there; get it: pip install 'fractal-backends[conformance]'"
        ) from error
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, with_code=_with_code, slug=_slug)
    environment.globals["Verdict"] = Verdict
    return environment


def _readable(value: Any) -> Any:
    """Text of bearable length without control characters, surrogates and changes of direction."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)
    return bounded(shown, characters=_CHARACTERS, lines=_LINES)


def _with_code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    from markupsafe import Markup, escape

    text = _readable(text)
    parts = []
    end = 0
    for match in _CODE.finditer(text):
        code = Markup("<code>{}</code>").format(match[2].strip())
        parts += [escape(text[end : match.start()]), code]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _slug(name: StrEnum) -> str:
    return name.value.replace(" ", "-")


def _anchors(report: Report) -> dict[str, str]:
    """Where on the page it is told why a requirement did not pass, by the requirement's id."""
    failed = [*report.having(Verdict.FAILED), *report.having(Verdict.WARNING)]
    anchors = {judgement.requirement.id: f"story-{judgement.requirement.id}" for judgement in failed}
    for number, judgements in enumerate(not_judged_by_reason(report).values(), start=1):
        anchors.update({judgement.requirement.id: f"reason-{number}" for judgement in judgements})
    return anchors


def _capabilities(subject: Subject) -> dict[str, list[tuple[str, str]]]:
    """What is declared and what is not: names and what they mean."""
    known = {name: capability.text for name, capability in capabilities().items()}
    unknown = "This specification does not know it."
    return {
        "Capabilities declared": [(name, known.get(name, unknown)) for name in subject.capabilities],
        "Capabilities not declared": [
            (name, text) for name, text in known.items() if name not in subject.capabilities
        ],
    }


def _arguments(subject: Subject) -> list[tuple[str, str]]:
    return [(name, subject.arguments.get(name, "not declared")) for name in OPTIONAL_ARGUMENTS]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _moment(started: str) -> str:
    """A moment as it is read: "3 June 2025, 14:05 UTC"; as it was given where it is none."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return started
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
