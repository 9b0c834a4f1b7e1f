"""Backends by name: entry points in the group `fractal_backends`.

Listing reads metadata only. Getting a backend imports that one plugin and no other.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from importlib_metadata import Distribution, EntryPoint, distributions

from .errors import (
    BrokenBackendError,
    DuplicateBackendError,
    InterfaceVersionError,
    UnknownBackendError,
)
from .interface import INTERFACE_VERSION

GROUP = "fractal_backends"
KNOWN_BACKENDS = {"local": "fractal-backends-local"}
"""Backends of this project and the distributions that bring them."""

_VALUE = re.compile(r"[\w.]+\s*:\s*[\w.]+")


class BackendState(StrEnum):
    """What the metadata tells of a backend."""

    INSTALLED = "installed"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"


@dataclass(frozen=True)
class BackendInfo:
    """An entry point that offers a backend, as the metadata of its distribution has it."""

    name: str
    distribution: str
    version: str
    entry_point: str
    """Where the backend is, as `module:attribute`."""
    state: BackendState


def available_backends() -> list[BackendInfo]:
    """All backends that installed distributions offer, sorted by name; imports none of them."""
    offers: dict[str, list[BackendInfo]] = {}
    for distribution in distributions():
        folder_name = _from_folder(distribution)[0]
        if folder_name not in offers:  # what stands earlier on the path hides later copies, as for imports
            offers[folder_name] = _offers(cast(Distribution, distribution))
    backends = [info for found in offers.values() for info in found]
    well_formed = Counter(info.name for info in backends if info.state is BackendState.INSTALLED)
    return sorted(
        (
            replace(info, state=BackendState.DUPLICATE)
            if info.state is BackendState.INSTALLED and well_formed[info.name] > 1
            else info
            for info in backends
        ),
        key=lambda info: (info.name, info.distribution),
    )


def _offers(distribution: Distribution) -> list[BackendInfo]:
    """What a distribution says it offers; broken metadata is told of, and harms no other distribution."""
    try:
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return []
        found = [(entry.name, entry.value) for entry in distribution.entry_points.select(group=GROUP)]
    except Exception as error:
        if isinstance(error, UnicodeDecodeError) and GROUP.encode() not in error.object:
            return []
        name, version = _identity(distribution)
        return [BackendInfo("?", name, version, f"entry_points.txt: {error}", BackendState.MALFORMED)]
    name, version = _identity(distribution)
    return [
        BackendInfo(
            entry,
            name,
            version,
            value,
            BackendState.INSTALLED if _VALUE.fullmatch(value) else BackendState.MALFORMED,
        )
        for entry, value in found
    ]


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Name and version, from the name of the metadata's folder where the metadata itself is broken."""
    name, version = _from_folder(distribution)
    try:
        return distribution.metadata["Name"] or name, distribution.metadata["Version"] or version
    except Exception:
        return name, version


def _from_folder(distribution: Any) -> tuple[str, str]:
    stem = getattr(getattr(distribution, "_path", None), "stem", "")
    name, _, version = stem.partition("-")
    return re.sub(r"[-_.]+", "-", name).lower(), version.partition("-")[0] or "?"


def get_backend(
    name: str, *, options: Mapping[str, Any] | None = None, observers: Iterable[object] = ()
) -> Any:
    """The backend of this name, with options and observers of its own (see `Backend`).

    Imports its plugin, and no other. Raises UnknownBackendError, DuplicateBackendError,
    InterfaceVersionError or BrokenBackendError, all of them RegistryErrors.
    """
    where, loaded = _load(name)
    if not inspect.isclass(loaded):
        if options or list(observers):
            raise BrokenBackendError(f"{where} is an object, not a class: it takes no options or observers")
        return loaded
    given: dict[str, Any] = {"options": options} if options else {}
    observers = list(observers)
    if observers:
        given["observers"] = observers
    try:
        return loaded(**given)
    except (Exception, SystemExit) as error:
        raise BrokenBackendError(f"{where} cannot be created: {type(error).__name__}: {error}") from error


def get_backend_class(name: str) -> type[Any]:
    """The class of the backend of this name, for what it says about itself. Raises as `get_backend`."""
    _, loaded = _load(name)
    return loaded if inspect.isclass(loaded) else type(loaded)


def _find(name: str) -> BackendInfo:
    backends = available_backends()
    matching = [info for info in backends if info.name == name]
    usable = [info for info in matching if info.state is not BackendState.MALFORMED]
    if len(usable) > 1:
        offers = " and ".join(f"{info.distribution} {info.version}" for info in usable)
        raise DuplicateBackendError(
            f"Backend {name!r} is offered by more than one distribution: {offers}. Uninstall all but one."
        )
    if usable:
        return usable[0]
    if matching:
        info = matching[0]
        raise BrokenBackendError(
            f"Backend {name!r} of {info.distribution} {info.version} has the entry point"
            f" {info.entry_point!r}; it must have the form 'module:attribute'"
        )
    raise UnknownBackendError(_unknown(name, [info.name for info in backends]))


def _unknown(name: str, installed: list[str]) -> str:
    lines = [f"There is no backend {name!r}. Installed: {', '.join(sorted(set(installed))) or 'none'}."]
    near = difflib.get_close_matches(name, {*installed, *KNOWN_BACKENDS}, 1)
    if near and near[0] in installed:
        lines.append(f"Did you mean {near[0]!r}?")
    missing = name if name in KNOWN_BACKENDS else (near[0] if near else None)
    if missing in KNOWN_BACKENDS and missing not in installed:
        lines.append(f"To get {missing!r}: pip install {KNOWN_BACKENDS[missing]}")
    elif not installed:
        lines += [f"To get {known!r}: pip install {dist}" for known, dist in KNOWN_BACKENDS.items()]
    return " ".join(lines)


def _load(name: str) -> tuple[str, Any]:
    """What the entry point names, checked to be a backend, and how to speak of it in messages."""
    info = _find(name)
    where = f"Backend {name!r} ({info.entry_point}, from {info.distribution} {info.version})"
    try:
        loaded = EntryPoint(info.name, info.entry_point, GROUP).load()
    except (Exception, SystemExit) as error:
        raise BrokenBackendError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    _check(loaded, where)
    return where, loaded


def _check(loaded: Any, where: str) -> None:
    if not callable(getattr(loaded, "process_workflow", None)):
        raise BrokenBackendError(
            f"{where} is not a backend: {loaded!r} has no process_workflow"
            " (see fractal_backends.StandardBackend)"
        )
    if not isinstance(getattr(loaded, "interface_version", None), int):
        raise BrokenBackendError(
            f"{where} does not say which version of the interface it was written for:"
            f" it needs an attribute such as interface_version = {INTERFACE_VERSION}"
        )
    if loaded.interface_version != INTERFACE_VERSION:
        newer = (
            "a newer fractal-backends" if loaded.interface_version > INTERFACE_VERSION else "a newer plugin"
        )
        raise InterfaceVersionError(
            f"{where} speaks version {loaded.interface_version} of the interface, this fractal-backends"
            f" speaks version {INTERFACE_VERSION}: install {newer}."
        )
    missing = getattr(loaded, "__abstractmethods__", None)
    if inspect.isclass(loaded) and missing:
        raise BrokenBackendError(f"{where} is not complete: it lacks {', '.join(sorted(missing))}")
