"""Judging a backend by random examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from .expectations import not_judged
from .subject import Run, Subject
from .violations import Violation

ExampleT = TypeVar("ExampleT")
SearchT = TypeVar("SearchT", bound=Callable[..., Any])

_SIMPLIFYING_S = 5.0
_SPARE = 0.1
"""Of a test's time: no example is begun when less is left."""

THOROUGH = settings(
    deadline=None,
    database=None,
    derandomize=True,  # unless a seed is given
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


class Trials:
    """Examples that are judged while there is time, and the last one that failed."""

    def __init__(self, subject: Subject) -> None:
        self.count = 0
        self._subject = subject
        self._slowest_s = 0.0
        self._simplify_until = float("inf")
        self._violation: Violation | None = None
        self._runs: list[Run] = []

    def next_place(self) -> str | None:
        """A name for the folder of the next example; None where there is no time for one."""
        deadline = self._subject.deadline
        if deadline.left < max(_SPARE * deadline.seconds, 2 * self._slowest_s):
            return None
        if time.monotonic() > self._simplify_until:
            return None
        self.count += 1
        self._subject.runs.clear()
        return f"example-{self.count}"

    def judge(self, example: Callable[[], None]) -> None:
        """Judge an example; keeps a violation, and the runs that it tells of."""
        started = time.monotonic()
        try:
            example()
        except Violation as error:
            if self._violation is None:
                self._simplify_until = time.monotonic() + _SIMPLIFYING_S
            self._violation, self._runs = error, self._subject.runs[:]
            raise
        finally:
            self._slowest_s = max(self._slowest_s, time.monotonic() - started)

    def search(self, search: Callable[[], Any], at_least: int) -> None:
        """Let Hypothesis search for an example that fails, and simplify it. Raises its violation.

        A backend that is too slow for so many examples is not judged.
        """
        try:
            search()
        except Exception:  # also Hypothesis's own, which is told by examples that pass that time is up
            if self._violation is None:
                raise
        if self._violation is not None:
            self._subject.runs[:] = self._runs
            raise self._violation from None
        if self.count < at_least:
            not_judged(
                f"only {self.count} of {at_least} examples could be tried in"
                f" {self._subject.deadline.seconds:g} s; more time can be given with --deadline"
            )


def seeded(subject: Subject, search: SearchT) -> SearchT:
    """A search of Hypothesis's that finds what the asked for seed brings."""
    return search if subject.chance.seed is None else seed(subject.chance.seed)(search)


def number_of_examples(subject: Subject, usual: int) -> int:
    """How many examples a test has to try; more than usual get more time."""
    count = subject.chance.examples or usual
    subject.deadline.extend(max(0.0, subject.deadline.seconds * (count / usual - 1)))
    return count


def for_any(
    subject: Subject,
    examples: SearchStrategy[ExampleT],
    situations: Callable[[ExampleT], set[str]],
    judge: Callable[[ExampleT, str], None],
    *,
    count: int,
    out_of: int,
) -> None:
    """Judge `count` of `out_of` random examples: those in which, together, most comes about.

    To make one is quicker by far than to judge a backend by it. `judge` is given an example, and a name for a
    folder of its own.
    """
    trials = Trials(subject)
    met: dict[str, set[str]] = {}
    by_name: dict[str, ExampleT] = {}
    failed: list[str] = []
    simplifies = False
    count, more = number_of_examples(subject, count), 2 * (subject.chance.examples or 0)

    def attempt(example: ExampleT) -> None:
        place = trials.next_place()
        if place is not None:
            trials.judge(lambda: judge(example, place))

    @settings(THOROUGH, max_examples=out_of + more)
    @given(examples)
    def search(example: ExampleT) -> None:
        nonlocal simplifies
        name = repr(example)
        if not failed:
            met[name], by_name[name] = situations(example), example
        elif simplifies or name in failed:
            simplifies = True
            attempt(example)

    search = seeded(subject, search)
    search()
    chosen = list(_most_varied(met, count))
    for name in chosen:
        try:
            attempt(by_name[name])
        except Violation:
            failed.append(name)
            break
    simplify = search if failed else lambda: None
    trials.search(simplify, at_least=len(chosen) // 2)


def _most_varied(met: dict[str, set[str]], count: int) -> Iterator[str]:
    """The examples with, one after another, the most situations that none before had."""
    left, seen = dict(met), set[str]()
    for _ in range(min(count, len(left))):
        example = max(left, key=lambda one: len(left[one] - seen))
        seen |= left.pop(example)
        yield example
