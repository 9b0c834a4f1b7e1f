"""Names of nodes as SLURM abbreviates them."""

from __future__ import annotations

import re

_MOST = 10_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def expand(text: str) -> set[str]:
    """The nodes that `node[01-03,7],login` names; what cannot be understood stands for itself."""
    return {name for part in re.split(r",(?![^\[]*\])", text) for name in _expand(part.strip()) if name}


def _expand(part: str) -> list[str]:
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]+)\](.*)", part)
    if match is None:
        return [part]
    numbers = []
    for piece in match[2].split(","):
        pair = _RANGE.fullmatch(piece.strip())
        if pair is None or int(pair[2] or pair[1]) - int(pair[1]) > _MOST:
            return [part]
        last = int(pair[2] or pair[1])
        numbers += [str(number).zfill(len(pair[1])) for number in range(int(pair[1]), last + 1)]
    rests = _expand(match[3])
    if len(numbers) * len(rests) > _MOST:
        return [part]
    return [f"{match[1]}{number}{rest}" for number in numbers for rest in rests]
