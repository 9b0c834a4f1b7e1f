"""Judging a backend by random examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from .expectations import not_judged
from .subject import Subject
from .violations import Violation

ExampleT = TypeVar("ExampleT")

_SIMPLIFYING_S = 5.0
_SPARE = 0.1
"""Of a test's time: no example is begun when less is left."""


def chosen(
    make: Callable[[Random], ExampleT],
    situations: Callable[[ExampleT], set[str]],
    count: int,
    out_of: int,
) -> list[ExampleT]:
    """Of many random examples, the same ones each time, those with the most situations that no other has.

    To make one is a thousand times quicker than to judge a backend by it.
    """
    left = []
    for number in range(out_of):
        example = make(Random(number))
        left.append((situations(example), example))
    met: set[str] = set()
    found = []
    for _ in range(count):
        new, example = max(left, key=lambda one: len(one[0] - met))
        met |= new
        found.append(example)
    return found


def for_all(
    subject: Subject,
    examples: Sequence[ExampleT],
    judge: Callable[[ExampleT, str], None],
    simpler: Callable[[ExampleT], Iterable[ExampleT]],
) -> None:
    """Judge examples, and for the first that fails tell the simplest one that is found to fail.

    `judge` is given an example, and a name for a folder of its own. A backend that is too slow for all of the
    examples is judged by fewer; one that is too slow for half of them is not judged.
    """
    trials = _Trials(subject, judge)
    for example in examples:
        if not trials.have_time():
            break
        violation = trials.violation(example)
        if violation:
            raise trials.simplest(example, violation, simpler)
    if len(trials.tried) < len(examples) / 2:
        not_judged(
            f"only {len(trials.tried)} of {len(examples)} examples could be tried in"
            f" {subject.deadline.seconds:g} s; more time can be given with --deadline"
        )


@dataclass
class _Trials(Generic[ExampleT]):
    """Examples that were judged."""

    subject: Subject
    judge: Callable[[ExampleT, str], None]
    tried: set[str] = field(default_factory=set)
    _slowest_s: float = 0.0

    def have_time(self) -> bool:
        """Whether another one is sure to end in time."""
        deadline = self.subject.deadline
        return deadline.left > max(_SPARE * deadline.seconds, 2 * self._slowest_s)

    def violation(self, example: ExampleT) -> Violation | None:
        """What is wrong with this one; the runs that are told of are those of this example."""
        self.tried.add(repr(example))
        self.subject.runs.clear()
        started = time.monotonic()
        try:
            self.judge(example, f"example-{len(self.tried)}")
        except Violation as error:
            return error
        finally:
            if len(self.tried) > 1:  # the first one waits for the runner to start
                self._slowest_s = max(self._slowest_s, time.monotonic() - started)
        return None

    def simplest(
        self, example: ExampleT, violation: Violation, simpler: Callable[[ExampleT], Iterable[ExampleT]]
    ) -> Violation:
        """What is wrong with the simplest example that can be found in a while."""
        end = time.monotonic() + _SIMPLIFYING_S
        runs = self.subject.runs[:]
        waiting = iter(simpler(example))
        while time.monotonic() < end and self.have_time():
            candidate = next(waiting, None)
            if candidate is None:
                break
            found = self.violation(candidate) if repr(candidate) not in self.tried else None
            if found:
                violation, runs, waiting = found, self.subject.runs[:], iter(simpler(candidate))
        self.subject.runs[:] = runs
        return violation
