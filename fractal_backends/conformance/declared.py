"""What the backend under test says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import BrokenBackendError, InvalidInputError
from ..interface import OPTIONAL_ARGUMENTS, Support
from ..options import Options, Source, merge_options
from ..registry import available_backends, get_backend_class
from .loading import Attempt, try_to_load
from .report import Subject
from .requirements import capabilities


@dataclass(frozen=True)
class Declared:
    """A backend's declarations; `arguments` and `own_capabilities` as they are, right or wrong."""

    name: str
    distribution: str
    version: str
    interface_version: int
    own_capabilities: frozenset[str]
    capability_options: Mapping[str, str]
    arguments: Mapping[str, Any]
    options_model: type[Options] | None
    """None where it does not say which options it knows."""
    config_file_variable: str | None
    takes_units: bool
    """Whether it is a `Backend`: with executors that can be given units without a run, and with observers."""

    @classmethod
    def load(cls, name: str, deadline_s: float) -> Declared:
        """As `of`, of a backend whose import may hang, or end the process. Raises RegistryError."""
        attempt = _tried(name, deadline_s)
        if not attempt.came_to_an_end:
            raise BrokenBackendError(f"Backend {name!r} cannot be judged: {attempt.reason}")
        return cls.of(name)

    @classmethod
    def of(cls, name: str) -> Declared:
        """What the backend of this name says. Raises RegistryError."""
        backend = get_backend_class(name)
        info = next(info for info in available_backends() if info.name == name)
        model = getattr(backend, "options_model", None)
        return cls(
            name=name,
            distribution=info.distribution,
            version=info.version,
            interface_version=backend.interface_version,
            own_capabilities=frozenset(getattr(backend, "capabilities", ())),
            capability_options=dict(getattr(backend, "capability_options", {})),
            arguments={key: str(value) for key, value in getattr(backend, "arguments", {}).items()},
            options_model=model,
            config_file_variable=getattr(backend, "config_file_variable", None),
            takes_units=callable(getattr(backend, "open", None)),
        )

    @property
    def option_names(self) -> tuple[str, ...] | None:
        """The options that it knows; None where it does not say."""
        return tuple(self.options_model.model_fields) if self.options_model else None

    def check_options(self, options: Mapping[str, Any], where: str) -> None:
        """Raises InvalidInputError where the backend does not take these options, which come from `where`."""
        if self.options_model:
            _, problems = merge_options(self.options_model, [Source("options", options)])
            if problems:
                raise InvalidInputError(f"{where} has options that {self.name!r} does not take", problems)

    @property
    def capabilities(self) -> frozenset[str]:
        """All that it has: what it names, and what it honours as an argument."""
        honoured = {
            name
            for name, known in capabilities().items()
            if self.arguments.get(known.argument or "") == Support.HONOURED
        }
        named = {name for name in self.own_capabilities if not _is_argument(name)}
        return frozenset(honoured | named)

    def asking_for(self, capability: str, value: Any) -> dict[str, Any]:
        """The options with which a user asks for a capability."""
        return {self.capability_options.get(capability, capability): value}

    def as_subject(self, options: Mapping[str, Any]) -> Subject:
        """The part of a report that says what was judged."""
        return Subject(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            interface_version=self.interface_version,
            capabilities=tuple(sorted(self.capabilities)),
            arguments={name: self.arguments.get(name, "not declared") for name in OPTIONAL_ARGUMENTS},
            options=dict(options),
        )


@cache
def _tried(name: str, deadline_s: float) -> Attempt:
    return try_to_load([name], deadline_s)[0]


def _is_argument(name: str) -> bool:
    known = capabilities().get(name)
    return known is not None and known.argument is not None
