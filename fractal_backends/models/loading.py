"""From dicts, JSON files and objects with attributes to models, with every problem shown at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import InvalidInputError

ModelT = TypeVar("ModelT", bound=BaseModel)

_SHOWN_INPUT = 100
_WORDS = {
    "model_attributes_type": "must be an object {…}",
    "model_type": "must be an object {…}",
    "dict_type": "must be an object {…}",
    "dataclass_type": "must be an object {…}",
    "list_type": "must be a list […]",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
}
"""What pydantic says in Python's terms, in those of JSON."""
_SCALARS = ("bool", "int", "float", "str")


def load(model: type[ModelT], source: Any) -> ModelT:
    """Validate a dict, an object with the model's attributes, or the JSON file at a `Path`.

    Raises InvalidInputError, which tells every problem and where it is.
    """
    title = model.__name__.lower()
    if isinstance(source, model):
        return source
    where = f"The {title}"
    try:
        if isinstance(source, Path):
            where = f"The {title} in {source}"
            return model.model_validate(read_json(source))
        return model.model_validate(source, from_attributes=True)
    except ValidationError as error:
        raise InvalidInputError(f"{where} is not valid", describe(error, model)) from None


def read_json(path: Path, *, each_key_once: bool = False) -> Any:
    """The content of a JSON file. Raises InvalidInputError that says where it stops being JSON.

    `each_key_once`: an object that has a key twice is a mistake, too; it takes longer to look for that.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_each_key_once if each_key_once else None)
    except OSError as error:
        raise InvalidInputError(f"Cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not a text file in UTF-8: {error}") from None
    except RecursionError:
        raise InvalidInputError(f"{path} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except ValueError as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"more than once in one object: {', '.join(map(repr, twice))}")
    return dict(pairs)


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: where it is, what is wrong, what is there."""
    lines: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        where = _place(detail["loc"])
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            names = _field_names(model, detail["loc"][:-1])
            hint = f"; the keys here are {', '.join(names)}" if names else ""
            text = f"unknown key{hint}"
        elif detail["type"] == "missing":
            text = "is missing"
        elif detail["type"] == "value_error":
            text = detail["msg"].removeprefix("Value error, ")
        elif detail["loc"] and detail["loc"][-1] in _SCALARS:  # one line for all members of the union
            text = f"must be a text, a finite number, true or false (got {_short(detail)})"
        else:
            text = f"{_WORDS.get(detail['type'], detail['msg'])} (got {_short(detail)})"
        lines[f"{where}: {text}" if where else text] = None
    return list(lines)


def _place(loc: Sequence[int | str]) -> str:
    text = ""
    for part in loc:
        # Members of unions and wrapping validators add names of their own, which tell the user nothing.
        if isinstance(part, int):
            text += f"[{part}]"
        elif "[" not in part and part not in _SCALARS:
            text += f".{part}" if text else part
    return text


def _short(detail: ErrorDetails) -> str:
    text = repr(detail["input"])
    return text if len(text) <= _SHOWN_INPUT else text[:_SHOWN_INPUT] + "…"


def _field_names(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The names that are valid at a place inside a model."""
    names: dict[str, Any] = dict(model.model_fields)
    for part in loc:
        if isinstance(part, int):
            continue
        field = names.get(part)
        nested = _nested_fields(field.annotation) if field is not None else None
        if nested is None:
            return []
        names = nested
    return list(names)


def _nested_fields(annotation: Any) -> dict[str, Any] | None:
    for candidate in (annotation, *_arguments(annotation)):
        fields = getattr(candidate, "model_fields", None) or getattr(candidate, "__pydantic_fields__", None)
        if fields:
            return dict(fields)
    return None


def _arguments(annotation: Any) -> list[Any]:
    found = []
    for argument in getattr(annotation, "__args__", ()):
        found += [argument, *_arguments(argument)]
    return found
