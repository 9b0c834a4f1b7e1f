"""How the cluster misbehaves, by a plan or at random.

A plan is a list of faults: `{"fault": NAME, "on": EVENT, "nth": 1, "times": 1, "after_s": 0, ...}`. An event
is a command (`squeue`, `sbatch`, ...) or `start`, the start of a job; the fault comes with its nth (counted
from 1), and `after_s` seconds later where that can be; where the job has ended by then, it comes with the
next one that starts. At random: `{"seed": 7, "count": 3}`, different
ones, and maybe `"kinds": [...]`, `"within": 8` (commands or starts) and `"span_s": 0.5`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .checks import problem

COMMAND_FAULTS = {
    "silent": "squeue",
    "rubbish": "squeue",
    "error": "squeue",
    "lost_answer": "sbatch",
    "refused": "sbatch",
    "no_accounting": "sacct",
}
"""What befalls a command, and which one at random."""
JOB_FAULTS = ("vanish", "node_down", "requeue", "out_of_memory", "time_limit", "late_receipts")
"""What befalls a job that runs."""
OTHER_FAULTS = ("restart", "accounting_lag")

_RARE = ("sbatch", "sacct")
"""Commands that may come only once."""
_CHOICES: dict[str, list[dict[str, Any]]] = {
    "silent": [{"seconds": 0.3, "times": 1}, {"seconds": 0.3, "times": 3}],
    "rubbish": [{"times": 1}, {"times": 3}],
    "error": [{"times": 1}, {"times": 3}],
    "no_accounting": [{"times": 100}],
    "vanish": [{"processes": "die"}, {"processes": "live"}],
    "node_down": [{"processes": "die"}, {"processes": "live"}],
    "restart": [{"forget_s": 2.0}, {"forget_s": 0.0}],
    "late_receipts": [{"seconds": 0.5}],
    "accounting_lag": [{"seconds": 1.0}],
}
_RANDOM = {"seed": "int", "count": "int", "kinds": "list[str] | None", "within": "int", "span_s": "float"}
_COMMON = {"on": "str", "nth": "int", "times": "int", "after_s": "float"}
_VALUES = {
    "silent": {"seconds": "float"},
    "lost_answer": {"seconds": "float"},
    "vanish": {"processes": "str"},
    "node_down": {"processes": "str", "back_s": "float"},
    "late_receipts": {"seconds": "float"},
    "restart": {"forget_s": "float", "down_s": "float"},
    "accounting_lag": {"seconds": "float"},
}
"""What may be said of a fault besides, and what that is."""
_EVENTS = ("start", "sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo")


class FaultError(ValueError):
    """A plan that makes no sense."""


@dataclass
class Fault:
    """One, and when it comes."""

    kind: str
    on: str
    nth: int = 1
    times: int = 1
    after_s: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)


def plan(values: dict[str, Any]) -> list[Fault]:
    """What the configuration says. Raises FaultError with all that is wrong, a line each."""
    at_random = {key: value for key, value in values.items() if key != "plan"} if "seed" in values else {}
    by_plan = {key: value for key, value in values.items() if key not in at_random}
    wrong = ["There is either a plan or a seed, not both."] if at_random and by_plan else []
    if at_random:
        kinds = values.get("kinds")
        wrong += _problems(at_random, _RANDOM) + _unknown_kinds(kinds if isinstance(kinds, list) else [])
    problems = _problems(by_plan, {"plan": "list[Any]"})
    faults: list[Fault] = []
    for item in [] if problems else by_plan.get("plan", []):
        try:
            faults.append(_read(item))
        except FaultError as error:
            problems.append(str(error))
    if wrong := wrong + problems:
        raise FaultError("\n".join(wrong))
    return _at_random(**at_random) if at_random else faults


def _problems(values: dict[str, Any], known: dict[str, str]) -> list[str]:
    unknown = [name for name in values if name not in known]
    found = [f"Unknown {', '.join(unknown)}. Known: {', '.join(known)}."] if unknown else []
    wrong = (problem(name, value, known[name]) for name, value in values.items() if name in known)
    return found + [f"{text}." for text in wrong if text]


def _unknown_kinds(kinds: Iterable[Any]) -> list[str]:
    known = [*COMMAND_FAULTS, *JOB_FAULTS, *OTHER_FAULTS]
    return [
        f"There is no fault {kind!r}. There are: {', '.join(known)}." for kind in kinds if kind not in known
    ]


def _read(item: Any) -> Fault:
    if not isinstance(item, dict):
        raise FaultError(f"A fault is an object, not {item!r}.")
    rest = dict(item)
    kind = rest.pop("fault", None)
    if wrong := _unknown_kinds([kind]):
        raise FaultError(wrong[0])
    wrong = _problems(rest, {**_COMMON, **_VALUES.get(kind, {})})
    if rest.get("processes", "die") not in ("die", "live"):
        wrong.append(f"processes is one of die, live; not {rest['processes']!r}.")
    on = rest.pop("on", COMMAND_FAULTS.get(kind, "start"))
    never = kind in COMMAND_FAULTS if on == "start" else kind == "late_receipts"
    if on not in _EVENTS or never:
        wrong.append(f"{kind} cannot come with {on!r}. Events: {', '.join(_EVENTS)}.")
    if wrong:
        raise FaultError("\n".join(wrong))
    return Fault(
        kind, on, int(rest.pop("nth", 1)), int(rest.pop("times", 1)), float(rest.pop("after_s", 0.0)), rest
    )


def _at_random(
    seed: int, count: int = 3, kinds: list[str] | None = None, within: int = 8, span_s: float = 0.5
) -> list[Fault]:
    dice = random.Random(seed)  # noqa: S311
    kinds = kinds or [*COMMAND_FAULTS, *JOB_FAULTS, *OTHER_FAULTS]
    faults = []
    for kind in dice.sample(kinds, min(count, len(kinds))):
        item: dict[str, Any] = {"fault": kind, **dice.choice(_CHOICES.get(kind, [{}]))}
        item["nth"] = 1 if COMMAND_FAULTS.get(kind) in _RARE else dice.randint(1, within)
        item["after_s"] = 0.0 if kind in COMMAND_FAULTS else round(dice.uniform(0, span_s), 3)
        faults.append(_read(item))
    return faults


class Faults:
    """Counts events, and says which faults come with them."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = faults
        self._seen: dict[str, int] = {}

    def on(self, event: str) -> list[Fault]:
        """Those that come with this one."""
        self._seen[event] = count = self._seen.get(event, 0) + 1
        return [
            item for item in self._faults if item.on == event and item.nth <= count < item.nth + item.times
        ]

    def add(self, fault: Fault) -> None:
        """Its nth event is counted from now."""
        self._faults.append(replace(fault, nth=fault.nth + self._seen.get(fault.on, 0)))

    @property
    def seen(self) -> dict[str, int]:
        """How often each event came; a controller that starts again goes on from there."""
        return self._seen
