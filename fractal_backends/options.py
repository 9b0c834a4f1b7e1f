"""A backend's options: a typed model, filled from several sources in order.

Later sources win: the backend's configuration file, the task's meta, what the caller gave. A task's meta may
hold keys of other backends, which are left alone; anywhere else an unknown key is an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, ValidationError
from pydantic.types import PositiveInt

_MEMORY = re.compile(r"(?i)(\d+)\s*([KMGT])?B?")
_NO_LIST = ("list_type", "tuple_type", "set_type", "frozen_set_type")
_ALMOST_THE_SAME = 0.85
"""How alike names are of which one is a slip; those of different options of real backends are less."""
_KB = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}


def _parse_memory(value: Any) -> Any:
    """`4000` is MB; `"4G"`, as SLURM users write it, is 4096 MB."""
    if not isinstance(value, str):
        return value
    match = _MEMORY.fullmatch(value.strip())
    if match is None:
        raise ValueError('must be a whole number of MB, or text with a unit such as "4G"')
    kb = int(match[1]) * _KB[(match[2] or "m").lower()]
    return -(-kb // 1024)  # rounded up


StrictPositiveInt = Annotated[PositiveInt, Strict()]
_MOST_MB = 1 << 40
MemoryMB = Annotated[StrictPositiveInt, Field(le=_MOST_MB), BeforeValidator(_parse_memory)]
"""An amount of memory in MB: a whole number, or text with a unit such as `"4G"`."""


class _Origins(dict[str, str]):
    """Names of sources by option. Always equal: options are the same where their values are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origins)

    __hash__ = None


class Options(BaseModel):
    """Base of every backend's options. Fields need defaults; their descriptions are shown to users."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _origins: _Origins = PrivateAttr(default_factory=_Origins)

    def origin(self, option: str) -> str | None:
        """The name of the source that said an option last; None where none did."""
        return self._origins.get(option)

    def contradictions(self) -> Iterable[tuple[Sequence[str], str]]:
        """What is wrong with values that are right one by one: the names of the options, and a sentence.

        Asked for when all sources are put together, never for one of them: what one lacks another may give.
        """
        return ()


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Source:
    """Where option values come from."""

    name: str
    """What error messages call it."""
    values: Mapping[str, Any]
    shared: bool = False
    """Whether it may hold keys of other backends, as a task's meta may."""
    problems: tuple[str, ...] = ()
    """What is wrong with it beyond the values of single options; told with all other problems."""
    used: bool = True
    """False for one that is only checked, such as a profile that this task does not use."""


def merge_options(model: type[OptionsT], sources: Sequence[Source]) -> tuple[OptionsT | None, list[str]]:
    """The options that the sources give together, later ones winning, or the problems, one a line."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for source in sources:
        problems += [f"{source.name}: {text}" for text in source.problems]
        known = {key: value for key, value in source.values.items() if key in model.model_fields}
        if not source.shared:
            problems += [
                f"{source.name}: {_unknown(key, model)}" for key in source.values if key not in known
            ]
        wrong = _invalid(model, known)
        problems += [f"{source.name}: {_text(detail)}" for detail in wrong]
        if not source.used:
            continue
        for detail in wrong:  # the others may still contradict each other
            known.pop(detail["loc"][0] if detail["loc"] else "", None)
        merged.update(known)
        origins.update(dict.fromkeys(known, source.name))
    try:
        options = model(**merged)
    except ValidationError as error:
        if not problems:  # each source is valid, but not all of them together
            names = " + ".join(source.name for source in sources)
            problems = [f"{names}: {_text(detail)}" for detail in error.errors()]
        return None, problems
    options._origins.update(origins)
    for fields, text in options.contradictions():
        names = " + ".join(dict.fromkeys(origins[field] for field in fields if field in origins))
        problems.append(f"{names}: {text}" if names else text)
    return (None, problems) if problems else (options, [])


def foreign_keys(model: type[Options], sources: Iterable[Source]) -> dict[str, str | None]:
    """The keys of shared sources that this backend does not read, each with the option meant, if any.

    Most are of other backends; one that is almost an option's name is rather a slip.
    """
    keys = [key for source in sources if source.shared for key in source.values]
    return {key: _meant(key, model) for key in keys if key not in model.model_fields}


def _meant(key: str, model: type[Options]) -> str | None:
    names = {_plain(name): name for name in model.model_fields}
    near = difflib.get_close_matches(_plain(key), names, 1, _ALMOST_THE_SAME)
    return names[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _invalid(model: type[Options], values: Mapping[str, Any]) -> list[Any]:
    try:
        model(**values)
    except ValidationError as error:
        return list(error.errors())
    return []


def _text(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    text = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in _NO_LIST:
        text = f"must be a JSON list, as in {_example_of_list(detail['input'])}"
    return f"{where}: {text} (got {detail['input']!r})" if where else text


def _example_of_list(given: Any) -> str:
    """The text that was given as the only one of a list, unless it was meant to be a list already."""
    is_one = isinstance(given, str) and given.strip() and not given.lstrip().startswith("[")
    return json.dumps([given] if is_one else ["first", "second"], ensure_ascii=False)


def _unknown(key: str, model: type[Options]) -> str:
    names = list(model.model_fields)
    near = difflib.get_close_matches(str(key), names, 1)
    if not names:
        return f"{key}: unknown option; this backend has no options."
    hint = f"did you mean {near[0]}? The" if near else "the"
    return f"{key}: unknown option; {hint} valid ones are {', '.join(names)}."
