"""Job arrays: `0-7:2,9%4`."""

from __future__ import annotations

import re

from . import hostlist

_ITEM = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?$")


def parse(text: str, max_size: int) -> tuple[list[int], int]:
    """The indices and how many may run at once (0: all). Raises ValueError."""
    ranges, percent, throttle = text.partition("%")
    if percent and not throttle.isdecimal():
        raise ValueError(text)
    indices: set[int] = set()
    for item in ranges.split(","):
        match = _ITEM.match(item)
        if match is None:
            raise ValueError(text)
        first, last, step = (int(group) if group else None for group in match.groups())
        assert first is not None
        last = first if last is None else last
        if last < first or last >= max_size or step == 0:
            raise ValueError(text)
        indices.update(range(first, last + 1, step or 1))
    return sorted(indices), int(throttle or 0)


def show(indices: list[int], throttle: int) -> str:
    """As squeue shows tasks that wait."""
    return hostlist.numbers(indices) + (f"%{throttle}" if throttle else "")
