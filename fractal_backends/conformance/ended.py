"""How a run ended, as the tests see it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .violations import must_contain, shown, violation
from .workflows import Json


@dataclass(frozen=True)
class Failure:
    """The error that a run ended with."""

    run: str
    """Which run that was."""
    types: list[str]
    message: str
    fields: Json

    def must_be(self, kind: str, *parts: str) -> Failure:
        """It has to be of a kind, the name of a class, and its message has to hold these parts."""
        if kind not in self.types:
            violation(f"{self.run} to raise {kind}", f"{self.types[0]}: {shown(self.message)}")
        for part in parts:
            must_contain(self.message, part, f"the {kind} of {self.run}")
        return self


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    folder: Path
    answer: Json
    seconds: float
    run: str = "the run"
    """Which run that was."""

    @cached_property
    def result(self) -> Json:
        """What it returned; a violation where it raised."""
        if not self.succeeded:
            violation(f"{self.run} to succeed", self.summary)
        if self.answer.get("not_json"):
            violation(f"{self.run} to return JSON values", str(self.answer["not_json"]))
        result = self.answer["result"]
        if not isinstance(result, dict) or not {"history", "filters", "images"} <= result.keys():
            violation(f"{self.run} to return a dict of history, filters and images", shown(result))
        return result

    @cached_property
    def failure(self) -> Failure:
        """What it raised; a violation where it succeeded."""
        error = self.answer["error"]
        if error is None:
            violation(f"{self.run} to raise an error", self.summary)
        return Failure(self.run, error["types"], error["message"], error)

    def must_succeed(self) -> None:
        """A violation where it raised."""
        _ = self.result

    def must_fail(self) -> None:
        """A violation where it succeeded."""
        _ = self.failure

    @property
    def succeeded(self) -> bool:
        """Whether it returned."""
        return self.answer["error"] is None

    @property
    def summary(self) -> str:
        """For a person to read."""
        error = self.answer["error"]
        return f"it raised {error['types'][0]}: {shown(error['message'])}" if error else "it succeeded"

    @property
    def saved(self) -> Json:
        """What the state files hold; a violation where one is missing or not JSON."""
        return {name: read_json(self.folder / f"{name}.json") for name in ("history", "filters", "images")}

    @property
    def images(self) -> list[Json]:
        """The images in the state file."""
        images: list[Json] = read_json(self.folder / "images.json")
        return images

    @property
    def statuses(self) -> list[str]:
        """What the history in the state file says of each task."""
        return [entry.get("status") for entry in read_json(self.folder / "history.json")]


def read_json(path: Path) -> Any:
    """The content of a JSON file that has to be there; a violation where it is not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        violation(f"the file {path.name} to be there", f"there is no {path}")
    except ValueError as error:
        violation(f"the file {path.name} to hold JSON", f"{path}: {error}")
