"""What `--format` of squeue and sinfo asks for."""

from __future__ import annotations

import re
from collections.abc import Callable

FIELD = re.compile(r"%(\.?)(\d*)([a-zA-Z])")
"""`%.8j`: to the right, how wide, and what."""


def fill(form: str, text_of: Callable[[str], str]) -> str:
    """A line; `text_of` has what stands for each letter."""

    def value(match: re.Match[str]) -> str:
        right, width, letter = match.groups()
        text = text_of(letter)
        if not width:
            return text
        return text[: int(width)].rjust(int(width)) if right else text[: int(width)].ljust(int(width))

    return FIELD.sub(value, form)
