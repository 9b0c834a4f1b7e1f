"""What a backend must do, as data: the files in `requirements/`, one for each area."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SUITE_VERSION = 1
"""Goes up with every release that adds requirements or makes one stricter."""


@dataclass(frozen=True)
class Requirement:
    """One thing that every backend must do, or every backend that declares a capability."""

    id: str
    title: str
    text: str
    since: int = 1
    """The version of the suite that introduced it."""
    capability: str | None = None
    """What a backend must declare for this to concern it."""
    smoke: bool = False
    """Whether it is part of the quick selection."""

    @property
    def is_warning(self) -> bool:
        """A new requirement only warns for one version of the suite, so that authors have time to follow."""
        return self.since > 1 and self.since >= SUITE_VERSION


@dataclass(frozen=True)
class Capability:
    """An optional ability that a backend may declare."""

    name: str
    text: str
    argument: str | None = None
    """The argument of `process_workflow` that asks for it; to honour that is to have the capability."""
    option: bool = False
    """Whether users ask for it with an option of the backend."""


@dataclass(frozen=True)
class Area:
    """Requirements that belong together."""

    name: str
    text: str
    requirements: tuple[Requirement, ...]

    @property
    def key(self) -> str:
        """The area's name on the command line."""
        return self.name.lower().replace(" ", "-")


_AREAS = (
    *("interface", "execution", "errors", "files", "environment", "capabilities"),
    *("isolation", "hygiene", "hostile-input", "scale", "random-workflows", "faults"),
)


@cache
def areas() -> tuple[Area, ...]:
    """All areas, in the order in which they are read and run."""
    found = []
    for name in _AREAS:
        data = tomllib.loads(files(__package__).joinpath(f"requirements/{name}.toml").read_text("utf-8"))
        requirements = tuple(
            Requirement(**{**entry, "text": " ".join(entry["text"].split())}) for entry in data["requirement"]
        )
        found.append(Area(data["area"], data["text"].strip(), requirements))
    return tuple(found)


@cache
def requirements() -> dict[str, Requirement]:
    """All requirements by id, in order."""
    return {requirement.id: requirement for area in areas() for requirement in area.requirements}


@cache
def capabilities() -> dict[str, Capability]:
    """All capabilities by name."""
    data = tomllib.loads(files(__package__).joinpath("requirements/_capabilities.toml").read_text("utf-8"))
    return {entry["name"]: Capability(**entry) for entry in data["capability"]}
