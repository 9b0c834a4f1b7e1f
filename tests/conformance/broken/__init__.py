"""Backends that are broken, each in one way, and the requirement that has to fail for each of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

BackendT = TypeVar("BackendT", bound=type[Any])


@dataclass(frozen=True)
class Defect:
    """A broken backend."""

    name: str
    requirement: str
    text: str
    """What is wrong with it."""
    entry_point: str
    arguments: Mapping[str, str]
    """Values for optional arguments that the suite needs to be given."""


_DEFECTS: list[Defect] = []


def caught_by(requirement: str, text: str, **arguments: str) -> Callable[[BackendT], BackendT]:
    """Register a broken backend with the requirement that has to fail."""

    def register(backend: BackendT) -> BackendT:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", backend.__name__).lower()
        assert name not in {defect.name for defect in _DEFECTS}
        entry_point = f"{backend.__module__}:{backend.__name__}"
        backend.name = name
        _DEFECTS.append(Defect(name, requirement, text, entry_point, arguments))
        return backend

    return register


def defects() -> Iterator[Defect]:
    """All broken backends."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    yield from _DEFECTS
