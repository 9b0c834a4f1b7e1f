"""What `import fractal_backends` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import fractal_backends


def _names_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(fractal_backends.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {name.asname or name.name for node in block.body for name in node.names}  # type: ignore[attr-defined]


def test_every_public_name_can_be_imported() -> None:
    for name in fractal_backends.__all__:
        assert getattr(fractal_backends, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    assert _names_for_type_checkers() == set(fractal_backends.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(fractal_backends, "nothing_of_this_name")


def test_the_library_does_not_import_the_command_lines_libraries() -> None:
    script = (
        "import sys, fractal_backends\n"
        "[getattr(fractal_backends, name) for name in fractal_backends.__all__]\n"
        "print([name for name in ('typer', 'rich', 'jsonschema', 'click') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
