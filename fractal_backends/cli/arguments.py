"""Checks the arguments of a workflow's tasks against the JSON Schemas in the manifests of their packages."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from jsonschema import Draft7Validator, Draft202012Validator, SchemaError, ValidationError, validators
from referencing import Registry

from ..models import RESERVED_ARGUMENTS
from .environments import ArgumentSchemas
from .resolve import ResolvedWorkflow

_SHOWN_CHARACTERS = 80
_SHOWN_CHOICES = 20
_FIRST_GENERATION = "pydantic_v1"
_TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean (true or false)",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "a string that matches the pattern {}",
}


def check_arguments(resolved: ResolvedWorkflow) -> list[str]:
    """Everything that is wrong with the arguments of the tasks that were resolved, one line for each thing.

    A line tells the task, where in its arguments, what is there and what would be right. A schema that cannot
    be used is a line too. Tasks of packages without schemas are not checked, and what the workflow's model
    finds (wrong shapes, arguments that are the runner's) is not repeated. The network is not used.
    """
    problems: list[str] = []
    items = resolved.document["task_list"] if any(resolved.schemas) else []
    for index, (item, schemas) in enumerate(zip(items, resolved.schemas, strict=False)):
        if schemas is not None:
            where = f"task_list[{index}] {item['task']['name']!r}"
            problems += [f"{where}: {line}" for line in _check_task(item, schemas)]
    return problems


def _check_task(item: dict[str, Any], schemas: ArgumentSchemas) -> Iterator[str]:
    for part, schema in (("args_non_parallel", schemas.non_parallel), ("args_parallel", schemas.parallel)):
        arguments = {} if item.get(part) is None else item[part]
        if schema is not None and isinstance(arguments, dict):
            own = {key: value for key, value in arguments.items() if key not in RESERVED_ARGUMENTS}
            yield from _check_part(own, schema, schemas.version, part)


def _check_part(
    arguments: dict[str, Any], schema: dict[str, Any], version: str | None, part: str
) -> list[str]:
    try:
        validator = _validator_class(schema, version)
        # Formats (such as "regex") are not checked: what pydantic writes is not always what Python reads.
        validator.check_schema(schema, format_checker=None)
        schema = _without_runners_arguments(schema)
        explainer = _Explainer(part, schema)
        # With a registry of its own the validator fetches nothing.
        errors = validator(schema, registry=Registry()).iter_errors(arguments)
        return list(dict.fromkeys(line for error in errors for line in explainer.explain(error)))
    except SchemaError as error:
        reason = f"{_place('schema', error.absolute_path)}: {_cut(error.message)}"
    except Exception as error:  # What a foreign schema makes the validator raise is not to be foreseen.
        reason = _cut(str(error))
    return [f"{part}: cannot be checked, the JSON Schema in the package's manifest is not valid: {reason}"]


def _without_runners_arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what a workflow holds: the runner adds its own arguments later."""
    properties = schema.get("properties", {}).items()
    return {
        **schema,
        "properties": {key: value for key, value in properties if key not in RESERVED_ARGUMENTS},
        "required": [key for key in schema.get("required", ()) if key not in RESERVED_ARGUMENTS],
    }


def _validator_class(schema: dict[str, Any], version: str | None) -> Any:
    extend: Any = validators.extend  # It has no type hints.
    first_generation = version == _FIRST_GENERATION or (version is None and "definitions" in schema)
    draft = Draft7Validator if first_generation else Draft202012Validator
    own_rules = {"pattern": _pattern, "properties": _properties}
    return extend(validators.validator_for(schema, draft), own_rules)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """As the standard has it, but a pattern in another dialect than Python's says nothing."""
    try:
        matches = not isinstance(instance, str) or re.search(pattern, instance)
    except re.error:
        return
    if not matches:
        yield ValidationError("does not match")


def _properties(
    validator: Any, properties: dict[str, Any], instance: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    """As the standard has it, but null is right for what is optional and has no other default.

    Fractal's tools drop the null from `X | None = None` when they write a schema, in both generations.
    """
    for name, subschema in properties.items() if isinstance(instance, dict) else ():
        has_default = isinstance(subschema, dict) and subschema.get("default") is not None
        is_optional = name not in schema.get("required", ()) and not has_default
        if name in instance and not (instance[name] is None and is_optional):
            yield from validator.descend(instance[name], subschema, path=name, schema_path=name)


class _Explainer:
    """Says in words what is wrong with one part of a task's arguments."""

    def __init__(self, part: str, schema: dict[str, Any]) -> None:
        self._part = part
        self._schema = schema

    def explain(self, error: ValidationError) -> list[str]:
        """One line for each thing that is wrong."""
        place = _place(self._part, error.absolute_path)
        rule, value = str(error.validator), cast(Any, error.validator_value)
        schema, instance = cast(dict[str, Any], error.schema), cast(Any, error.instance)
        got = f"{place}: is {_show(instance)}"
        if rule in ("anyOf", "oneOf"):
            return self._explain_union(error, schema, place)
        if rule == "additionalProperties":
            return list(_unknown_keys(instance, schema, place))
        if rule == "required":
            return list(self._missing_keys(instance, schema, place))
        if rule in ("enum", "const"):
            return [f"{got}, {_choice(instance, value if rule == 'enum' else [value])}"]
        if rule == "type":
            return [f"{got}, expected {self._expected(schema)}"]
        if rule in _LIMITS:
            return [f"{got}, expected {_LIMITS[rule].format(value)}"]
        return [f"{place}: {_cut(error.message)}"]

    def _explain_union(self, error: ValidationError, schema: dict[str, Any], place: str) -> list[str]:
        """Only what is wrong with the alternative that was meant, as far as that can be told."""
        failures: dict[int, list[ValidationError]] = {}
        for each in error.context or ():
            failures.setdefault(cast(int, each.relative_schema_path[0]), []).append(each)
        tag, values = self._tag(schema)
        if tag and isinstance(error.instance, dict):
            choices = [value for each in values for value in each]
            # No failures at all: too many alternatives fit, as they do where nothing says which is meant.
            if tag not in error.instance and ("discriminator" in schema or not failures):
                return [f"{place}.{tag}: is missing; it says which kind this is, expected {_one_of(choices)}"]
            if tag in error.instance:
                value = error.instance[tag]
                failures = {number: each for number, each in failures.items() if value in values[number]}
                if value not in choices:
                    return [f"{place}.{tag}: is {_show(value)}, {_choice(value, choices)}"]
        if not error.context:
            return [f"{place}: is {_show(error.instance)}, which fits several of: {self._expected(schema)}"]
        fitting = [each for each in failures.values() if not any(map(_is_of_another_kind, each))]
        if not fitting:
            return [f"{place}: is {_show(error.instance)}, expected {self._expected(schema)}"]
        lines = [line for each in min(fitting, key=len) for line in self.explain(each)]
        more = f" (or something else: {self._expected(schema)})" if len(fitting) > 1 else ""
        return [line + more for line in lines]

    def _tag(self, schema: dict[str, Any]) -> tuple[str | None, list[list[Any]]]:
        """The property that tells a union's alternatives apart, and its values in each of them."""
        alternatives = [self._follow(each) for each in schema.get("oneOf") or schema.get("anyOf") or ()]
        objects = [each["properties"] for each in alternatives if each.get("properties")]
        declared = schema.get("discriminator")
        names = [declared.get("propertyName")] if isinstance(declared, dict) else list(*objects[:1])
        for name in names:
            values = [self._constants(each.get("properties", {}).get(name)) for each in alternatives]
            if len(objects) > 1 and sum(map(bool, values)) == len(objects):
                return name, values
        return None, []

    def _constants(self, schema: Any) -> list[Any]:
        schema = self._follow(schema)
        return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))

    def _missing_keys(self, instance: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
        properties = schema.get("properties", {})
        unknown = [key for key in instance if key not in properties]
        for key in schema["required"]:
            if key not in instance:
                near = difflib.get_close_matches(key, unknown, n=1)
                hint = f"; is the unknown key {near[0]!r} meant for it?" if near else ""
                yield f"{_join(place, key)}: is missing, expected {self._expected(properties.get(key))}{hint}"

    def _expected(self, schema: Any) -> str:
        """What a schema asks for, in a few words."""
        schema = self._follow(schema)
        if constants := self._constants(schema):
            return _one_of(constants)
        tag, values = self._tag(schema)
        if tag:
            return f"an object whose {tag!r} is {_one_of([value for each in values for value in each])}"
        kinds = schema.get("type", [])
        words = [_TYPES.get(kind, str(kind)) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        words += [self._expected(each) for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())]
        return " or ".join(dict.fromkeys(words)) or "a value"

    def _follow(self, schema: Any) -> dict[str, Any]:
        """What a schema's reference points to; nothing, if it is not inside the same document."""
        for _ in range(10):
            reference = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(reference, str):
                break
            schema = self._schema
            for key in reference.removeprefix("#").strip("/").split("/"):
                schema = schema.get(key, {}) if isinstance(schema, dict) else {}
        return schema if isinstance(schema, dict) else {}


def _is_of_another_kind(error: ValidationError) -> bool:
    return not error.relative_path and error.validator in ("type", "const", "enum")


def _unknown_keys(instance: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    known = list(schema.get("properties", {}))
    for key in instance:
        if key not in known and not any(re.search(each, key) for each in schema.get("patternProperties", {})):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"the nearest is {near[0]!r}; " if near else ""
            keys = f"the keys here are {', '.join(known)}" if known else "no key is allowed here"
            yield f"{_join(place, key)}: unknown key; {hint}{keys}"


def _choice(value: Any, choices: Sequence[Any]) -> str:
    texts = [each for each in choices if isinstance(each, str)]
    near = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) else []
    hint = f"; the nearest is {_show(near[0])}" if near and len(choices) > 1 else ""
    return f"expected {_one_of(choices)}{hint}"


def _one_of(choices: Sequence[Any]) -> str:
    shown = ", ".join(map(_show, choices[:_SHOWN_CHOICES]))
    more = f" and {len(choices) - _SHOWN_CHOICES} more" if len(choices) > _SHOWN_CHOICES else ""
    return f"one of {shown}{more}" if len(choices) > 1 else shown


def _show(value: Any) -> str:
    """As it stands in the workflow's file, which is JSON."""
    return _cut(json.dumps(value, ensure_ascii=False, default=repr), _SHOWN_CHARACTERS)


def _cut(text: str, length: int = 3 * _SHOWN_CHARACTERS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "…"


def _place(start: str, path: Iterable[str | int]) -> str:
    for key in path:
        start = _join(start, key)
    return start


def _join(place: str, key: str | int) -> str:
    if isinstance(key, str) and re.fullmatch(r"[\w-]+", key):
        return f"{place}.{key}"
    return f"{place}[{_show(key)}]"
