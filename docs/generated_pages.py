"""Fills in the pages that are made from the suite's own data; MkDocs calls `on_page_markdown`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fractal_backends.conformance.requirements import (
    SUITE_VERSION,
    Area,
    Requirement,
    areas,
    capabilities,
    requirements,
)


def specification() -> str:
    """Every requirement, area by area."""
    return "\n\n".join(_area(area) for area in areas())


def _area(area: Area) -> str:
    return "\n\n".join([f"## {area.name}", area.text, *(_requirement(entry) for entry in area.requirements)])


def _requirement(entry: Requirement) -> str:
    notes = [f"Since suite {entry.since}"]
    if entry.capability:
        notes.append(f"for backends with [`{entry.capability}`](capabilities.md#{entry.capability})")
    if entry.smoke:
        notes.append("part of `--only smoke`")
    anchor = entry.id.lower()
    return (
        f"### {entry.id} {entry.title} {{ #{anchor} }}\n\n{entry.text}\n\n<small>{'; '.join(notes)}.</small>"
    )


def list_of_capabilities() -> str:
    """Every capability: what it means, how one declares it, and what holds one to it."""
    parts = []
    for capability in capabilities().values():
        if capability.argument:
            how = f'Declared by `arguments["{capability.argument}"] = Support.HONOURED`.'
        elif capability.option:
            how = (
                "Declared in `capabilities`; users ask for it with an option of this name, or with the one"
                " that `capability_options` names."
            )
        else:
            how = "Declared in `capabilities`."
        tested = [
            f"[{entry.id}](specification.md#{entry.id.lower()}) {entry.title}"
            for entry in requirements().values()
            if entry.capability == capability.name
        ]
        heading = f"## `{capability.name}` {{ #{capability.name} }}"
        parts.append(f"{heading}\n\n{capability.text}\n\n{how} Held to: {'; '.join(tested)}.")
    return "\n\n".join(parts)


def broken_backends() -> str:
    """Every broken backend, and the requirement that catches it."""
    from tests.conformance.broken import defects

    rows: list[Iterable[str]] = []
    places = list(requirements())
    for defect in sorted(defects(), key=lambda defect: (places.index(defect.requirement), defect.name)):
        link = f"[{defect.requirement}](specification.md#{defect.requirement.lower()})"
        rows.append((f"`{defect.name}`", defect.text, link))
    head = ["| backend | what is wrong with it | caught by |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def slurm_options() -> str:
    """Every option of the slurm backend."""
    from fractal_backends_slurm import SlurmOptions

    rows = []
    for name, field in SlurmOptions.model_fields.items():
        value = field.get_default(call_default_factory=True)
        default = "" if value is None or value in ((), {}) else f"`{json.dumps(value)}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


_PARTS: dict[str, Callable[[], str]] = {
    "<!-- specification -->": specification,
    "<!-- capabilities -->": list_of_capabilities,
    "<!-- broken backends -->": broken_backends,
    "<!-- options of slurm -->": slurm_options,
    "<!-- suite version -->": lambda: str(SUITE_VERSION),
    "<!-- number of requirements -->": lambda: str(len(requirements())),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with what belongs into it."""
    for marker, make in _PARTS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown
