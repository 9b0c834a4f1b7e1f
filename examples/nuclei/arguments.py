"""What can be chosen about the raw data; needs only the standard library."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

# Shading is corrected over several fields, and only a stack can be projected.
MIN_FIELDS, MIN_PLANES, MIN_SIZE = 2, 2, 128
DEFAULT_WELLS = "B03,B04"


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run.py` hands on to `make_data.py`."""
    parser.add_argument(
        "--wells",
        type=parse_wells,
        default=DEFAULT_WELLS,
        help=f"of a 384-well plate (default {DEFAULT_WELLS})",
    )
    parser.add_argument("--fields", type=_at_least(MIN_FIELDS), default=4, help="of each well (default 4)")
    parser.add_argument(
        "--size", type=_at_least(MIN_SIZE), default=512, help="of a field, in pixels (default 512)"
    )


def add_more_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that only `make_data.py` has."""
    parser.add_argument("--planes", type=_at_least(MIN_PLANES), default=3, help="of each field (default 3)")
    parser.add_argument(
        "--seed", type=_at_least(0), default=7, help="another one gives other cells (default 7)"
    )


def parse_wells(text: str) -> list[str]:
    """Names such as `B03,C11`."""
    wells = [part.strip().upper() for part in text.split(",")]
    for well in wells:
        if not re.fullmatch(r"[A-P](0[1-9]|1\d|2[0-4])", well):
            raise argparse.ArgumentTypeError(f"{well!r} is not one of A01 to P24")
    if len(set(wells)) < len(wells):
        raise argparse.ArgumentTypeError(f"a well is given twice in {text!r}")
    return wells


def _at_least(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
        return int(text)

    return number
