"""Take a picture of a terminal: `terminal_picture.py OUT.svg TITLE REGEX COMMAND...` (needs tmux and rich).

Runs the command in a terminal of 110 columns and takes the picture when the screen matches the expression.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

SESSION = "terminal-picture"
DEADLINE_S = 120


def tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


def screen_when(expression: str) -> str:
    """The screen, with its colours, once it matches."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if re.search(expression, tmux("capture-pane", "-p", "-t", SESSION), re.DOTALL):
            return tmux("capture-pane", "-p", "-e", "-t", SESSION).rstrip()
        time.sleep(0.05)
    raise SystemExit(f"The screen never matched {expression!r}")


def main() -> None:
    out, title, expression, *command = sys.argv[1:]
    line = f"{shlex.join(command)}; sleep {DEADLINE_S}"
    tmux("new-session", "-d", "-s", SESSION, "-x", "110", "-y", "40", line)
    try:
        screen = screen_when(expression)
    finally:
        tmux("kill-session", "-t", SESSION)
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(Text.from_ansi(screen))
    svg = console.export_svg(title=title)
    # Rich's style sheet fetches a font; any monospaced one will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    Path(out).write_text(svg)


if __name__ == "__main__":
    main()
