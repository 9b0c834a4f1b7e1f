"""Checking arguments against both generations of schemas."""

from __future__ import annotations

import copy
import socket
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fractal_backends.cli.arguments import check_arguments
from fractal_backends.cli.environments import ArgumentSchemas
from fractal_backends.cli.resolve import ResolvedWorkflow


def check(arguments: Any, schema: dict[str, Any], version: str | None = "pydantic_v2") -> list[str]:
    """The problems of one task, without the part that names the task."""
    item = {"task": {"name": "Segment"}, "args_parallel": arguments}
    schemas = ArgumentSchemas(version, None, schema)
    lines = check_arguments(ResolvedWorkflow({"task_list": [item]}, [schemas]))
    assert all(
        line.startswith("task_list[0] 'Segment': args_parallel") and "\n" not in line for line in lines
    )
    return [line.removeprefix("task_list[0] 'Segment': args_parallel").removeprefix(".") for line in lines]


class Backend(Enum):
    CSV = "csv"
    ZARR = "zarr"


class Channel(BaseModel):
    mode: Literal["label", "wavelength_id", "index"] = "label"
    identifier: str
    skip: bool = False


class Otsu(BaseModel):
    method: Literal["Otsu"] = "Otsu"


class Fixed(BaseModel):
    method: Literal["Simple Threshold"] = "Simple Threshold"
    threshold: float


class Crop(BaseModel):
    kind: Literal["crop"] = "crop"
    size: Annotated[int, Field(gt=0)]


class Pad(BaseModel):
    kind: Literal["pad"] = "pad"
    size: int
    fill: Annotated[float, Field(ge=0, le=1)] = 0


class Box(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int
    height: int


class Disk(BaseModel):
    model_config = ConfigDict(extra="forbid")
    radius: float


class Arguments(BaseModel):
    """Stands for a task's function; pydantic, which checks its arguments at run time, is the oracle."""

    model_config = ConfigDict(extra="forbid", strict=False)

    zarr_url: str
    channel: Channel
    method: Annotated[Otsu | Fixed, Field(discriminator="method")] = Otsu()
    steps: list[Crop | Pad] = []
    level: int | None = None
    box: Box | None = None
    shape: Box | Disk | int | None = None
    backend: Backend = Backend.CSV
    weights: dict[str, int] = {}
    output: Annotated[str, Field(pattern=r"^\w+$", max_length=10)] = "x"
    origin: tuple[int, int] = (0, 0)


SECOND = Arguments.model_json_schema()
CHANNEL = {"channel": {"identifier": "DAPI"}}


def is_right_at_run_time(arguments: dict[str, Any]) -> bool:
    try:
        Arguments.model_validate({"zarr_url": "/a", **arguments})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"method": {"method": "Simple Threshold", "threshold": 3}},
        {"steps": [{"kind": "crop", "size": 1}, {"size": 3}, {"kind": "pad", "size": -1, "fill": 0.5}]},
        {"level": None, "box": None, "shape": None},
        {"level": 2, "box": {"width": 1, "height": 2}, "shape": {"radius": 1}},
        {"shape": 3, "backend": "zarr", "weights": {"A01 C01": 4}, "output": "abc", "origin": [1, 2]},
    ],
)
def test_right_arguments_of_the_second_generation(more: dict[str, Any]) -> None:
    assert is_right_at_run_time({**CHANNEL, **more})
    assert check({**CHANNEL, **more}, SECOND) == []


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"channel": {"mode": "labl", "identifier": "DAPI"}},
            'channel.mode: is "labl", expected one of "label", "wavelength_id", "index";'
            ' the nearest is "label"',
        ),
        (
            {"methd": {}},
            "methd: unknown key; the nearest is 'method'; the keys here are channel, method, steps, level,"
            " box, shape, backend, weights, output, origin",
        ),
        (
            {"channel": {"identifer": "DAPI"}},
            "channel.identifier: is missing, expected a string; is the unknown key 'identifer' meant for it?",
        ),
        ({"channel": {"identifier": 3}}, "channel.identifier: is 3, expected a string"),
        (
            {"channel": {"identifier": "a", "skip": "yes, please"}},
            'channel.skip: is "yes, please", expected a boolean (true or false)',
        ),
        (
            {"method": {"method": "Otsuu"}},
            'method.method: is "Otsuu", expected one of "Otsu", "Simple Threshold"; the nearest is "Otsu"',
        ),
        ({"method": {"method": "Simple Threshold"}}, "method.threshold: is missing, expected a number"),
        (
            {"method": {"threshold": 3}},
            "method.method: is missing; it says which kind this is,"
            ' expected one of "Otsu", "Simple Threshold"',
        ),
        (
            {"method": "Otsu"},
            'method: is "Otsu", expected an object whose \'method\' is one of "Otsu", "Simple Threshold"',
        ),
        ({"steps": [{"kind": "crop", "size": 0}]}, "steps[0].size: is 0, expected more than 0"),
        ({"steps": [{"kind": "pad", "size": 1, "fill": 2}]}, "steps[0].fill: is 2, expected at most 1"),
        (
            {"steps": [{"kind": "crop", "size": 1}, {"kind": "cut"}]},
            'steps[1].kind: is "cut", expected one of "crop", "pad"',
        ),
        ({"level": "high"}, 'level: is "high", expected an integer or null'),
        ({"level": 1.5}, "level: is 1.5, expected an integer or null"),
        ({"box": {"width": 1}}, "box.height: is missing, expected an integer"),
        ({"box": []}, "box: is [], expected an object or null"),
        (
            {"shape": {"width": 1, "heigth": 1}},
            "shape.height: is missing, expected an integer; is the unknown key 'heigth' meant for it?"
            " (or something else: an object or an integer or null)",
        ),
        (
            {"shape": {"width": 1, "height": "x"}},
            'shape.height: is "x", expected an integer (or something else: an object or an integer or null)',
        ),
        ({"shape": "round"}, 'shape: is "round", expected an object or an integer or null'),
        ({"backend": "cvs"}, 'backend: is "cvs", expected one of "csv", "zarr"; the nearest is "csv"'),
        ({"weights": {"A01 C01": 1.5}}, 'weights["A01 C01"]: is 1.5, expected an integer'),
        ({"output": "a b"}, r'output: is "a b", expected a string that matches the pattern ^\w+$'),
        ({"output": "a" * 11}, 'output: is "aaaaaaaaaaa", expected at most 10 characters'),
        ({"origin": [1]}, "origin: is [1], expected at least 2 items"),
        ({"origin": [1, "b"]}, 'origin[1]: is "b", expected an integer'),
    ],
)
def test_wrong_arguments_of_the_second_generation(more: dict[str, Any], expected: str) -> None:
    assert not is_right_at_run_time({**CHANNEL, **more})
    assert expected in check({**CHANNEL, **more}, SECOND)


@pytest.mark.parametrize("arguments", [None, {}])
def test_what_is_missing_is_found_also_where_there_are_no_arguments(arguments: Any) -> None:
    assert check(arguments, SECOND) == ["channel: is missing, expected an object"]


FIRST = {
    "title": "Segment",
    "type": "object",
    "properties": {
        "zarr_url": {"type": "string"},
        "init_args": {"$ref": "#/definitions/InitArgs"},
        "channel": {"title": "Channel", "allOf": [{"$ref": "#/definitions/Channel"}]},
        "level": {"type": "integer"},
        "threshold": {"type": "number", "default": 0.5},
        "size": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": [{"type": "integer"}, {"type": "string"}],
        },
        "mode": {"enum": ["fast"], "type": "string"},
    },
    "required": ["zarr_url", "init_args", "channel"],
    "additionalProperties": False,
    "definitions": {
        "InitArgs": {"type": "object", "required": ["origin"], "properties": {"origin": {"type": "string"}}},
        "Channel": {
            "type": "object",
            "properties": {"label": {"type": "string"}, "wavelength_id": {"type": "string"}},
            "required": ["label"],
        },
    },
}


@pytest.mark.parametrize("version", ["pydantic_v1", None])
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"level": 1, "size": [1, "a"], "mode": "fast"}, []),
        ({"level": None}, []),
        ({"threshold": None}, ["threshold: is null, expected a number"]),
        ({"channel": None}, ["channel: is null, expected an object"]),
        ({"channel": {"label": 1}}, ["channel.label: is 1, expected a string"]),
        ({"size": [1, 2]}, ["size[1]: is 2, expected a string"]),
        ({"mode": "slow"}, ['mode: is "slow", expected "fast"']),
        (
            {"levle": 1},
            [
                "levle: unknown key; the nearest is 'level';"
                " the keys here are channel, level, threshold, size, mode"
            ],
        ),
    ],
)
def test_the_first_generation(version: str | None, more: dict[str, Any], expected: list[str]) -> None:
    before = copy.deepcopy(FIRST)
    assert check({"channel": {"label": "DAPI"}, **more}, FIRST, version) == expected
    assert before == FIRST


def test_null_is_right_for_what_is_optional_in_fractals_second_generation() -> None:
    channel = {"type": "object", "properties": {"label": {"type": "string"}}}
    schema = {
        "properties": {"channel": {"$ref": "#/$defs/C"}, "name": {"$ref": "#/$defs/C"}},
        "$defs": {"C": channel},
    }
    assert check({"channel": None}, schema) == []
    assert check({"channel": {"label": None}}, schema) == []
    assert check({"channel": None}, {**schema, "required": ["channel"]}) == [
        "channel: is null, expected an object"
    ]


def test_all_problems_of_all_tasks_at_once() -> None:
    number = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n", "zarr_dir"]}
    items = [
        {"task": {"name": "a"}, "args_non_parallel": {"n": "x"}, "args_parallel": {}},
        {"task": {"name": "own form"}, "args_parallel": {"n": "x"}},
        {"task": {"name": "b"}, "args_non_parallel": {"n": "x"}, "args_parallel": {"n": "y"}},
    ]
    schemas = [ArgumentSchemas(None, number, number), None, ArgumentSchemas("pydantic_v2", None, number)]
    assert check_arguments(ResolvedWorkflow({"task_list": items}, schemas)) == [
        "task_list[0] 'a': args_non_parallel.n: is \"x\", expected a number",
        "task_list[0] 'a': args_parallel.n: is missing, expected a number",
        "task_list[2] 'b': args_parallel.n: is \"y\", expected a number",
    ]


def test_what_the_models_validation_finds_is_not_repeated() -> None:
    assert check({**CHANNEL, "zarr_url": "/a"}, SECOND) == []
    assert check(["not", "an", "object"], SECOND) == []
    assert check_arguments(ResolvedWorkflow("no workflow", [])) == []


def test_what_is_not_known_in_a_schema_is_ignored() -> None:
    schema = {
        "properties": {
            "date": {"type": "string", "format": "date-time", "x-order": 3, "widget": {"type": 3}},
            "name": {"type": "string", "pattern": r"^\p{L}+$"},
            "kind": {"discriminator": {"propertyName": "nowhere"}, "oneOf": [{"type": "string"}]},
        },
        "$schema": "https://example.org/a-draft-of-our-own",
    }
    assert check({"date": "yesterday", "name": "?", "kind": "a"}, schema) == []
    assert check({"kind": 3}, schema) == ["kind: is 3, expected a string"]


@pytest.mark.parametrize("version", ["pydantic_v1", "pydantic_v2"])
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "strng"}, "schema.type: "),
        ({"properties": []}, "schema.properties: "),
        ({"properties": {"a": {"required": True}}}, "schema.properties.a.required: "),
        ({"properties": {"a": {"$ref": "#/$defs/Gone"}}}, "/$defs/Gone"),
        ({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}, "recursion"),
        ({"$schema": []}, "unhashable"),
        ({"patternProperties": {r"\p{L}": {"type": "string"}}}, "bad escape"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_problem_of_its_task(
    schema: dict[str, Any], expected: str, version: str
) -> None:
    (line,) = check({"a": 1}, schema, version)
    assert "the JSON Schema in the package's manifest is not valid" in line
    assert expected in line


def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        reference = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        (line,) = check({"a": 1}, {"properties": {"a": {"$ref": reference}}})
        assert reference in line
        with pytest.raises(BlockingIOError):
            server.accept()


def test_two_alternatives_that_both_fit_are_told_apart() -> None:
    tagged = {"oneOf": [{"properties": {"kind": {"const": each}}} for each in ("a", "b")]}
    assert check({"x": {}}, {"properties": {"x": tagged}}) == [
        'x.kind: is missing; it says which kind this is, expected one of "a", "b"'
    ]
    untagged = {"oneOf": [{"type": "number"}, {"type": "integer"}]}
    assert check({"x": 3}, {"properties": {"x": untagged}}) == [
        "x: is 3, which fits several of: a number or an integer"
    ]


def test_long_values_and_choices_are_cut() -> None:
    schema = {"properties": {"x": {"enum": list(range(1000))}, "y": {"not": {"const": "a" * 1000}}}}
    for line in check({"x": "b" * 1000, "y": "a" * 1000}, schema):
        assert len(line) < 400
        assert "…" in line
