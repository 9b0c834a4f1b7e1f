"""What is written to the terminal, or to whatever stands in its place."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_FILES = 120


class _Stream(io.TextIOBase):
    """A standard stream that does not fail: when nobody is left to read, what is written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for tables where there is none."""
    stream: Any = _Stream(sys.stderr if stderr else sys.stdout)
    console = Console(file=stream)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_OF_FILES)
    return console


def make_table(*columns: str) -> Table:
    """A table in the style of all tables here; columns that end in `>` are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column.endswith(">")
        justify: Any = "right" if number else "left"
        table.add_column(column.rstrip(">"), justify=justify, overflow="fold", no_wrap=number)
    return table


def add_row(table: Table, *cells: Any) -> None:
    """A row of plain text: nothing in it is taken for markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(harmless(str(cell))) for cell in cells))


def harmless(text: str) -> str:
    """Without what a terminal would take for orders."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(value: Any) -> None:
    """JSON on stdout, as it is."""
    print(json.dumps(value, indent=2), file=_Stream(sys.stdout))


def one_line(text: str) -> str:
    """Text that keeps to its line, and leaves the terminal as it is."""
    return "".join(character if character.isprintable() else " " for character in text)
