"""The simplest workflows that go wrong for someone who has misread the specification, as Hypothesis found them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .oracle import RandomTask, State

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Misreading:
    """A misreading, and a workflow on a dataset that shows it."""

    what: str
    state: State
    tasks: list[RandomTask]


@cache
def misreadings() -> tuple[Misreading, ...]:
    """All that are known."""
    return tuple(
        Misreading(entry["if"], State(**entry["state"]), [RandomTask(**task) for task in entry["tasks"]])
        for entry in json.loads(FILE.read_text(encoding="utf-8"))
    )
