"""A SLURM of one's own, by hand: `python -m slurm_lab start`, and the lines to paste."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import machine
from .lab import SETTINGS, LabError, SlurmLab
from .processes import end_family
from .settings import MemoryKill, Settings

FOLDER = Path("/tmp/slurm-lab")
"""Where other users may go."""
_PATIENCE_S = 5.0
"""How long a command may take to end."""


def main() -> None:
    arguments = _arguments()
    if arguments.do in ("start", "run") and (reason := machine.why_not(arguments.accounting)):
        sys.exit(reason)
    try:
        match arguments.do:
            case "install":
                machine.install()
            case "start":
                _start(arguments)
            case "run":
                sys.exit(_run(arguments))
            case "stop":
                _lab(arguments.folder).stop()
            case "list":
                for place in machine.places():
                    print(f"{place.cluster}  {place.folder}")
    except (LabError, OSError) as error:
        sys.exit(str(error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m slurm_lab", description=__doc__)
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("install", help="Debian's packages of SLURM (as root)")
    start = commands.add_parser("start", help="start a SLURM, or what is missing of it (as root)")
    run = commands.add_parser("run", help="run a command with a SLURM that is there just for it (as root)")
    run.add_argument("command", nargs="+", help="after --")
    stop = commands.add_parser("stop", help="end its jobs and daemons, and remove it")
    for command in (start, stop):
        command.add_argument("folder", type=Path, nargs="?", default=FOLDER, help=f"default: {FOLDER}")
    for command in (start, run):
        command.add_argument("--nodes", type=_at_least_one, default=4)
        command.add_argument("--cpus", type=_at_least_one, default=8, help="of each node")
        command.add_argument("--memory-mb", type=_at_least_one, default=16_000, help="of each node")
        command.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
        command.add_argument(
            "--memory-kill",
            type=MemoryKill,
            choices=list(MemoryKill),
            default=Settings().memory_kill,
            help="who ends jobs that take too much memory",
        )
        command.add_argument(
            "--line", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="of slurm.conf"
        )
    commands.add_parser("list", help="all labs of this machine")
    return parser.parse_args()


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        nodes=arguments.nodes,
        cpus=arguments.cpus,
        memory_mb=arguments.memory_mb,
        accounting=arguments.accounting,
        memory_kill=arguments.memory_kill,
        lines=dict(arguments.line),
    )


def _run(arguments: argparse.Namespace) -> int:
    """A signal ends the command, or its start, and in any case the lab is stopped in order."""
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: came.append(number))
    with SlurmLab(_settings(arguments)) as lab:
        code = 0 if came else _call(arguments.command, lab, came)
    return 128 + came[0] if came else code


def _call(command: list[str], lab: SlurmLab, came: list[int]) -> int:
    process = subprocess.Popen(command, env={**os.environ, **lab.env})
    try:
        while process.poll() is None and not came:
            time.sleep(0.05)
    finally:
        if process.returncode is None:
            end_family(process.pid, _PATIENCE_S)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _start(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    if (arguments.folder / SETTINGS).exists() and SlurmLab.at(arguments.folder).settings != settings:
        raise LabError(f"{arguments.folder} was started with other settings: stop it first")
    lab = SlurmLab(settings, arguments.folder)
    lab.start()
    print(f"export SLURM_CONF={shlex.quote(str(lab.conf))}")


def _lab(folder: Path) -> SlurmLab:
    if not (folder / SETTINGS).exists():
        others = ", ".join(str(place.folder) for place in machine.places())
        raise LabError(f"no lab in {folder}; the folders of labs: {others or 'there are none'}")
    return SlurmLab.at(folder)


if __name__ == "__main__":
    main()
