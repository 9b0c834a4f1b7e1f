"""The outcome of the suite, as data: what the table, the JSON file, the page and the badge show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ..requirements import SUITE_VERSION, Requirement

NOT_SELECTED = "not selected"
"""Why a requirement was not judged, where only others were asked for."""

INTERRUPTED = "the check was interrupted"
"""Why a requirement was not judged to the end."""


class Verdict(StrEnum):
    """What became of a requirement."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"
    """It failed, and is so new that this does not count yet."""
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one requirement."""

    requirement: Requirement
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """For a failure the story of each test that failed (what was done, expected, got, files); for what was
    not judged why."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Subject:
    """The backend that was judged."""

    name: str
    distribution: str
    version: str
    interface_version: int
    capabilities: tuple[str, ...]
    arguments: dict[str, str]
    """What becomes of each of the five optional arguments: honoured, ignored or refused."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options that it was judged with."""


@dataclass(frozen=True)
class Report:
    """One judgement of one backend."""

    subject: Subject
    judgements: tuple[Judgement, ...]
    """One for every requirement there is, in their order."""
    selection: tuple[str, ...] = ()
    """What was to be judged; nothing: everything."""
    core_version: str = ""
    python: str = ""
    platform: str = ""
    started: str = ""
    """ISO 8601, UTC."""
    seconds: float = 0.0
    folder: str | None = None
    """Where the files of the failed tests are."""
    seed: int | None = None
    """Of the random examples; None: those that are always the same."""
    examples: int | None = None
    """How many random examples each test was to have; None: as many as it thought enough."""
    interrupted: bool = False
    """Whether it ended before all was judged."""
    suite_version: int = SUITE_VERSION

    def having(self, verdict: Verdict) -> list[Judgement]:
        """The judgements with this verdict."""
        return [judgement for judgement in self.judgements if judgement.verdict is verdict]

    @property
    def conforms(self) -> bool:
        """Whether nothing failed, and all was judged that was asked for, and something."""
        return bool(self.having(Verdict.PASSED)) and not self.having(Verdict.FAILED) and not self.interrupted

    @property
    def headline(self) -> str:
        """The result in a few words."""
        failed, passed = len(self.having(Verdict.FAILED)), len(self.having(Verdict.PASSED))
        if failed:
            return f"{failed} of {failed + passed} requirements failed"
        return f"{passed} requirements passed" if passed else "nothing was judged"

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "conforms": self.conforms, "headline": self.headline}
