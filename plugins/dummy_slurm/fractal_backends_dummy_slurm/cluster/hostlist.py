"""Names of nodes as SLURM writes them: `n[1-3,7],gpu1`."""

from __future__ import annotations

import re

_MOST = 65_536
"""Of a range, as SLURM has it."""
_PART = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?(?:,|$)")


def expand(text: str) -> list[str]:
    """`n[1-2],m` is n1, n2, m. Raises ValueError, with SLURM's word for it, where a range is none."""
    names: list[str] = []
    for prefix, ranges in (match.groups() for match in _PART.finditer(text)):
        if ranges is None:
            names += [prefix] if prefix else []
            continue
        for item in ranges.split(","):
            first, _, last = item.partition("-")
            last = last or first
            if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
                raise ValueError(f"_parse_single_range: Invalid range: `{item}'")
            if int(last) - int(first) >= _MOST:
                raise ValueError(f"_parse_single_range: Too many hosts in range `{item}'")
            width = len(first)
            names += [f"{prefix}{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return names


def compress(names: list[str]) -> str:
    """n1, n2, n3 is `n[1-3]`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names), key=_natural):
        prefix, digits = _split(name)
        groups.setdefault(prefix, []).append(digits)
    return ",".join(_group(prefix, digits) for prefix, digits in groups.items())


def _group(prefix: str, digits: list[str]) -> str:
    if len(digits) == 1:
        return prefix + digits[0]
    return f"{prefix}[{numbers([int(digit) for digit in digits])}]"


def numbers(values: list[int]) -> str:
    """2, 3, 4, 7 is `2-4,7`."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and parts[-1][1] == value - 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _split(name: str) -> tuple[str, str]:
    prefix = name.rstrip("0123456789")
    return prefix, name[len(prefix) :]


def _natural(name: str) -> tuple[str, int]:
    prefix, digits = _split(name)
    return prefix, int(digits or 0)
