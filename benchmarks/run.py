"""Measure, and compare with what is aimed at: `uv run benchmarks/run.py [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator

import idle
import images
import slurm
import startup
import stragglers
import units
from measuring import Row, Settings, new_folder, workspace

BENCHMARKS = {module.__name__: module for module in (units, stragglers, images, startup, idle, slurm)}
BUSY = 0.5
"""Other programs' share of the machine, in cores, from which on it is said."""
HEADINGS = ("measured", "at most", "ok", "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help="how often to repeat what is repeated")
    parser.add_argument(
        "--fractal-server",
        action="store_true",
        help="measure fractal-server too; the first time it is installed into benchmarks/.envs",
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return arguments


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    with workspace() as folder:
        for name in arguments.names or BENCHMARKS:
            with new_folder(folder) as own:
                print(f"\n{name}")
                settings = Settings(own, arguments.rounds, arguments.fractal_server)
                yield from BENCHMARKS[name].measure(settings)


def _line(what: str, *cells: str) -> str:
    return f"  {what:<62}{cells[0]:>11}{cells[1]:>11}  {cells[2]:<5}{cells[3]}".rstrip()


def _shown(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # leaves no files behind
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"This machine is busy (load {load:.1f}): what is compared with it busy proves little.\n")
    print(_line("", *HEADINGS))
    missed = 0
    for row in _rows(arguments):
        verdict = "" if row.target is None else "yes" if row.ok else "NO"
        missed += not row.ok
        print(
            _line(row.what, _shown(row.measured, row.unit), _shown(row.target, row.unit), verdict, row.note),
            flush=True,
        )
    if missed:
        sys.exit(f"\n{missed} of the targets missed")


if __name__ == "__main__":
    main()
