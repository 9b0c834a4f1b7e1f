"""The job script: plain sh that a compute node runs with nothing of ours installed.

Four files in `job/` make it up: `job.sh` is what an array task does, `units.awk` runs its units one after
the other, `unit.sh` is what becomes of each, `ended.sh` notes how it ended. Every value in it is quoted;
only `worker_init` is shell, by definition.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

_NOT_WHOLE = "worker_init is not whole: a quote, a block, a here-document or its last line has no end"


@dataclass(frozen=True)
class JobScript:
    """All that the script of one job array depends on."""

    title: str
    """What the job is, in one line, for a person who finds the script."""
    home: str
    """The folder that units find themselves in."""
    folder: str
    """The submission's folder: `units` in it names the units, a label a line; receipts go there."""
    place: str
    """The folder of the units' own files."""
    command: Sequence[str]
    """The task's command."""
    units_each: int
    """Units of each array task."""
    at_once: int = 1
    """Of these, units at the same time; above 1 each is a step of its own."""
    cpus: int = 1
    memory_mb: int | None = None
    """Memory of a unit; only steps need it."""
    of_steps: str = ""
    """An option of srun for units that run at the same time."""
    limit_s: int | None = None
    """How long a unit may run, in seconds."""
    env: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    """Variables that are not for units."""
    worker_init: str | None = None
    shebang: str = "#!/bin/sh"
    extra_lines: Sequence[str] = ()

    def render(self) -> bytes:
        """The script."""
        places = [
            f"fb_folder={shlex.quote(self.folder)}",
            f"fb_place={shlex.quote(self.place)}",
            "fb_receipt=$fb_folder/$fb_array_task.receipt",
            f"fb_limit={self.limit_s or ''}",
        ]
        lines = [
            self.shebang,
            *self.extra_lines,
            f"# {' '.join(self.title.split())}",
            *(f"unset {name}" for name in self.unset),
            f"cd {shlex.quote(self.home)} || exit 1",
            f"export FRACTAL_MARK={shlex.quote(os.path.basename(self.folder))}_$SLURM_ARRAY_TASK_ID.$$",
            *(f"export {name}={shlex.quote(value)}" for name, value in self.env.items()),
            # worker_init may unset or change SLURM's variables.
            "fb_job=$SLURM_JOB_ID fb_array_task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
            "fb_index=$SLURM_ARRAY_TASK_ID fb_conf=${SLURM_CONF:-}",
            "fb_host=${SLURMD_NODENAME:-?}/$$",  # a node may have two starts of an array task
            "fb_node_memory=${SLURM_MEM_PER_NODE:-0} fb_core_memory=${SLURM_MEM_PER_CPU:-}",
            "IFS=' ' read -r fb_begun fb_rest </proc/uptime",
            # The first unit notes when the node was booted, too, but may come late, or never.
            "fb_note_booted() {",
            "    IFS=' ' read -r fb_now fb_rest </proc/uptime",
            '    echo "booted $fb_host $(($(date +%s) - ${fb_now%.*}))"',
            "}",
            *self._before_units(),
            r"\unalias -a",
            "unset IFS; set +aefuvxC",  # whatever the lines above made of them
            *places,
            f"fb_units_each={self.units_each} fb_at_once={self.at_once} fb_cpus={self.cpus}"
            f" fb_memory={self.memory_mb or ''} fb_of_steps={self.of_steps}",
            f"fb_units={shlex.quote(_part('units.awk'))}",
            f"fb_unit={shlex.quote(chr(10).join([*places, *self._unit()]))}",
            f"fb_note() {{\n{_part('ended.sh')}}}",
            _part("job.sh"),
        ]
        return os.fsencode("\n".join(lines))

    def _before_units(self) -> list[str]:
        """What is shell by definition; that it begins is noted, and its end where it ends the script."""
        if not self.worker_init:
            return []
        receipt = f'{shlex.quote(self.folder)}/"$fb_array_task.receipt"'
        begin = f'umask 077; {{ echo "begun $fb_host $fb_begun"; fb_note_booted; }} >>{receipt}'
        trap = f'if [ -z "${{fb_first:-}}" ]; then umask 077; echo "over $fb_host" >>{receipt}; fi'
        # What has no end in it, a quote for instance, must not take in what follows.
        lines = "\n".join([self.worker_init.replace("\r\n", "\n"), "fb_whole=1 # the end of worker_init", ""])
        return [
            f"({begin}) || exit 1",
            f"trap {shlex.quote(trap)} EXIT",
            f"eval {shlex.quote(lines)}",
            f'[ -n "${{fb_whole:-}}" ] || {{ echo {shlex.quote(_NOT_WHOLE)} >&2; exit 2; }}',
            "unset fb_whole",
        ]

    def _unit(self) -> list[str]:
        return [_part("ended.sh"), f"set -- {shlex.join(self.command)}", _part("unit.sh")]


@cache
def _part(name: str) -> str:
    return (files(__package__) / "job" / name).read_text("utf-8")
