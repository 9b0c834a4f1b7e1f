"""What a backend is judged with, beside its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..interface import OPTIONAL_ARGUMENTS
from ..models import read_json

Json = dict[str, Any]

DEADLINE_S = 60.0
_SHAPE = '{"options": {...}, "arguments": {...}, "time_limit_s": 60}'


@dataclass(frozen=True)
class Settings:
    """What the suite is told of the place where it judges."""

    options: Json = field(default_factory=dict)
    """Options of the backend; every run has them."""
    arguments: Json = field(default_factory=dict)
    """Values for the optional arguments, such as a user that there is."""
    time_limit_s: int = 2
    """The smallest time limit of a unit that the engine has, in seconds."""

    @classmethod
    def read(cls, path: str | Path | None) -> Settings:
        """Those of a JSON file; without one the suite's own. Raises InvalidInputError."""
        if path is None:
            return cls()
        given = read_json(Path(path))
        problems = list(_problems(given)) if isinstance(given, dict) else [f"it must be like {_SHAPE}"]
        if problems:
            raise InvalidInputError(f"The file {path} is not what a backend can be judged with", problems)
        return cls(**given)


def _problems(given: Json) -> list[str]:
    valid = tuple(Settings.__dataclass_fields__)
    found = [f"{key}: unknown; the valid ones are {', '.join(valid)}" for key in given if key not in valid]
    found += [
        f"{key} must be an object, as in {_SHAPE}"
        for key in ("options", "arguments")
        if not isinstance(given.get(key, {}), dict)
    ]
    limit = given.get("time_limit_s", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        found.append(f"time_limit_s must be a whole number of seconds from 1 up, not {limit!r}")
    arguments = given.get("arguments")
    for key, value in arguments.items() if isinstance(arguments, dict) else ():
        if key not in OPTIONAL_ARGUMENTS:
            found.append(f"arguments.{key}: unknown; the valid ones are {', '.join(OPTIONAL_ARGUMENTS)}")
        elif not isinstance(value, str):
            found.append(f"arguments.{key} must be a string, not {value!r}")
    return found


@dataclass(frozen=True)
class Chance:
    """How random examples are chosen."""

    seed: int | None = None
    """None: always the same ones, so that a verdict does not change from one day to the next."""
    examples: int | None = None
    """How many for each test; None: as many as the test thinks enough."""
