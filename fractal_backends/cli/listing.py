"""The commands that only show: `list`, `info`, `tasks`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from ..conformance.declared import Declared
from ..conformance.loading import try_to_load
from ..interface import OPTIONAL_ARGUMENTS
from ..registry import BackendInfo, BackendState, available_backends, get_backend_class
from .terminal import add_row, harmless, make_console, make_table, print_json


def show_backends(*, check: bool, as_json: bool) -> bool:
    """Show what is installed. Returns False if some backend was to load and did not."""
    backends = available_backends()
    reasons = _check_all(backends) if check else {}
    rows = [
        {**asdict(info), **({"check": "broken" if reasons[i] else "ok", "why": reasons[i]} if check else {})}
        for i, info in enumerate(backends)
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        print("No backend is installed. To get the one for this machine: pip install fractal-backends-local")
    else:
        titles = ("Name", "Distribution", "Version", "State", *(("Check",) if check else ()))
        table = make_table(*titles)
        for row in rows:
            cells = [row["name"], row["distribution"], row["version"], row["state"]]
            add_row(table, *cells, *([_styled(row["check"], row["check"] == "ok")] if check else []))
        console = make_console()
        console.print(table)
        for row in rows:
            if row.get("why"):
                console.print(Text(harmless(f"{row['name']}: {row['why']}")), soft_wrap=True)
    return not any(reasons.values())


def _styled(text: str, good: bool) -> Text:
    return Text(text, style="green" if good else "red")


def _check_all(backends: Sequence[BackendInfo]) -> dict[int, str | None]:
    """Why each of the backends does not load, or None."""
    named = [
        i for i, info in enumerate(backends) if info.state is not BackendState.MALFORMED or info.name != "?"
    ]
    attempts = try_to_load([backends[i].name for i in named])
    reasons: dict[int, str | None] = {i: info.entry_point for i, info in enumerate(backends)}
    return reasons | {i: attempt.reason for i, attempt in zip(named, attempts, strict=True)}


def describe_backend(name: str) -> dict[str, Any]:
    """What a backend says about itself. Raises RegistryError."""
    with contextlib.redirect_stdout(sys.stderr):  # a plugin may print when it is imported
        backend = get_backend_class(name)
    entry = next(info for info in available_backends() if info.name == name)
    model = getattr(backend, "options_model", None)
    schema = model.model_json_schema() if model else {}
    return {
        "name": name,
        "description": getattr(backend, "description", ""),
        "distribution": entry.distribution,
        "version": entry.version,
        "interface_version": backend.interface_version,
        "capabilities": sorted(Declared.of(name).capabilities),
        "arguments": {
            argument: str(getattr(backend, "arguments", {}).get(argument, "not declared"))
            for argument in OPTIONAL_ARGUMENTS
        },
        "config_file_variable": getattr(backend, "config_file_variable", None),
        "options": {key: _option(value) for key, value in schema.get("properties", {}).items()},
    }


def _option(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [_kind(part) for part in schema.get("anyOf", [schema])]
    return {
        "type": " or ".join(kind for kind in kinds if kind != "null"),
        "default": schema.get("default"),
        "description": schema.get("description", ""),
    }


def _kind(schema: dict[str, Any]) -> str:
    kind = "/".join(map(repr, schema["enum"])) if "enum" in schema else str(schema.get("type", "any"))
    if "exclusiveMinimum" in schema:
        return f"{kind} > {schema['exclusiveMinimum']}"
    return f"{kind} >= {schema['minimum']}" if "minimum" in schema else kind


def show_backend(name: str, *, as_json: bool) -> None:
    """Show what a backend says about itself. Raises RegistryError."""
    about = describe_backend(name)
    if as_json:
        print_json(about)
        return
    console = make_console()
    console.print(Text(f"{name}: {about['description']}".rstrip(": "), style="bold"))
    lines = make_table("", "")
    lines.show_header = False
    add_row(lines, "distribution", f"{about['distribution']} {about['version']}")
    add_row(lines, "interface version", about["interface_version"])
    add_row(lines, "capabilities", ", ".join(about["capabilities"]) or "none")
    for argument, support in about["arguments"].items():
        add_row(lines, argument, support)
    variable = about["config_file_variable"]
    add_row(lines, "configuration file", f"named by {variable}" if variable else "none")
    console.print(lines)
    options = make_table("Name", "Type", "Default", "Meaning")
    for key, option in about["options"].items():
        default = "not set" if option["default"] is None else json.dumps(option["default"])
        add_row(options, key, option["type"], default, " ".join(option["description"].split()))
    console.print(Text("Options" if about["options"] else "It has no options.", style="italic"))
    if about["options"]:
        console.print(options)


def show_tasks(environments: Sequence[str], *, as_json: bool) -> None:
    """Show the Fractal tasks in Python environments. Raises InvalidInputError."""
    from .environments import find_tasks

    found = find_tasks(environments)
    if as_json:
        print_json([_environment_json(environment) for environment in found])
        return
    console = make_console()
    for environment in found:
        table = make_table("Package", "Version", "Task", "Type", "Input types", "Output types")
        for task in environment.tasks:
            types = (_types(task.task.input_types), _types(task.task.output_types))
            add_row(table, task.pkg_name, task.version or "?", task.task.name, task.task.type, *types)
        none = "" if environment.tasks else ": no Fractal tasks"
        console.print(Text(environment.interpreter + none), soft_wrap=True)
        if environment.tasks:
            console.print(table)
        for problem in environment.problems:
            console.print(Text(f"{problem.pkg_name}: {problem.text}", style="red"), soft_wrap=True)


def _types(types: dict[str, bool]) -> str:
    return ", ".join(f"{name}={str(flag).lower()}" for name, flag in types.items())


def _environment_json(environment: Any) -> dict[str, Any]:
    return {
        "environment": environment.name,
        "interpreter": environment.interpreter,
        "tasks": [
            {"package": t.pkg_name, "version": t.version, **t.task.model_dump(mode="json", exclude_none=True)}
            for t in environment.tasks
        ],
        "problems": [asdict(problem) for problem in environment.problems],
    }
