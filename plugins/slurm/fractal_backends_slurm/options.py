"""The options of the slurm backend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from fractal_backends import InvalidInputError, MemoryMB, Options

from .hostlist import expand
from .values import (
    GPU_LINES,
    OPTION_OF_LINE,
    ExtraLines,
    Gpus,
    Gres,
    Nodes,
    OneLine,
    RelativePath,
    Shebang,
    Time,
    VariableName,
    WholeNumber,
    exported,
    sbatch_options,
    seconds,
)

if TYPE_CHECKING:
    from .packing import Packing

Contradiction = tuple[Sequence[str], str]
"""The names of the options, and what is wrong with them together."""


class SlurmOptions(Options):
    """How the units of a task part run on SLURM. Cores, memory and time are those of one unit."""

    partition: OneLine | None = None
    """Partition, or several with commas, as for sbatch."""
    cpus_per_task: WholeNumber = 1
    """Cores that a unit uses."""
    mem: MemoryMB | None = None
    """Memory that a unit may use, in MB, or with a unit as in "4G" (4096 MB, as SLURM has it)."""
    time: Time | None = None
    """How long a unit may run: "MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS"."""
    gres: Gres | None = None
    """Generic resources of an array task, such as "gpu:1"."""
    gpus: Gpus | None = None
    """GPUs of an array task, such as "1" or "a100:1"."""
    constraint: OneLine | None = None
    """Features that a node must have."""
    nodelist: OneLine | None = None
    """The node to be used. SLURM gives a job all nodes of a list: of several, exclude the others."""
    exclude: OneLine | None = None
    """Nodes that may not be used."""
    nodes: Nodes = 1
    """Nodes of an array task: 1, as a unit runs on one node."""
    account: OneLine | None = None
    """The account that is charged; an error where the run's slurm_account says otherwise."""
    default_account: OneLine | None = None
    """The account that is charged where neither account nor the run's slurm_account says which."""
    qos: OneLine | None = None
    """Quality of service."""
    extra_lines: ExtraLines = ()
    """Lines for the head of the job script: "#SBATCH --name=value", or "export NAME=value", a plain value."""
    shebang: Shebang = "#!/bin/sh"
    """The first line of the job script; its shell must read what sh reads."""
    use_mem_per_cpu: bool = False
    """Ask for memory per core (mem divided by cpus_per_task) in place of memory per node."""
    pre_submission_commands: tuple[OneLine, ...] = ()
    """Commands to run before each submission, where the runner is; all must succeed. Not for tasks' metas."""
    needs_gpu: bool = False
    """The task needs a GPU: the site file's gpu_slurm_config is used."""
    tasks_per_job: WholeNumber | None = None
    """Units of one array task at most. Where it is not set, it is worked out."""
    parallel_tasks_per_job: WholeNumber | None = None
    """Units that run at the same time in one array task. Where it is not set, it is worked out."""
    target_cpus_per_job: WholeNumber | None = None
    """Cores that an array task should have."""
    max_cpus_per_job: WholeNumber | None = None
    """Cores that an array task may have."""
    target_mem_per_job: MemoryMB | None = None
    """Memory that an array task should have, in MB or as in "4G"."""
    max_mem_per_job: MemoryMB | None = None
    """Memory that an array task may have, in MB or as in "4G"."""
    target_num_jobs: WholeNumber | None = None
    """Array tasks that the units of a task part should become."""
    max_num_jobs: WholeNumber | None = None
    """Array tasks that the units of a task part may become, be they larger than tasks_per_job."""
    user_local_exports: dict[VariableName, RelativePath] = Field(default_factory=dict)
    """Environment variables of the units, with paths that are relative to the user's cache folder."""
    poll_interval: float = Field(2.0, gt=0, le=3_600)
    """Seconds between two questions to the scheduler at least."""
    receipt_deadline: float = Field(60.0, gt=0, le=86_400)
    """Seconds that an ended job's receipts may take to show up on a shared file system."""

    @property
    def time_s(self) -> int | None:
        """How long a unit may run, in seconds."""
        return None if self.time is None else seconds(self.time)

    @property
    def sbatch_lines(self) -> list[str]:
        """The extra lines that are for sbatch."""
        return [line for line in self.extra_lines if sbatch_options(line)]

    @property
    def exports(self) -> dict[str, str]:
        """The variables that the extra lines export."""
        return dict(pair for line in self.extra_lines if (pair := exported(line)))

    def has_line(self, name: str) -> bool:
        """Whether a line in `extra_lines` sets this option of sbatch."""
        return any(name == other for line in self.extra_lines for other, _ in sbatch_options(line))

    @property
    def asks_for_gpus(self) -> bool:
        """Whether an array task gets GPUs, whichever way they are asked for."""
        return self.needs_gpu or bool(gpu_keys(dict(self)))

    @property
    def asks_for_gres(self) -> bool:
        """The same of GPUs and whatever else `gres` names."""
        pairs = (pair for line in self.extra_lines for pair in sbatch_options(line))
        given = [self.gres or "none", *(value for name, value in pairs if name == "gres")]
        return self.asks_for_gpus or any(value != "none" and _are_some(value.split(",")) for value in given)

    def told_origin(self, option: str) -> str:
        """Where an option comes from, to be read behind it; empty where nobody said it."""
        source = self.origin(option)
        return f" (from {source})" if source else ""

    def sbatch_arguments(self, packing: Packing, account: str | None) -> list[str]:
        """The arguments of sbatch that follow from the options; `account` as `charged_account` has it."""
        values: dict[str, object] = {
            "partition": self.partition,
            "cpus-per-task": packing.cpus,
            **self._memory(packing),
            "time": packing.time,
            "gres": self.gres,
            "gpus": self.gpus if "gpus" in gpu_keys(dict(self)) else None,
            "constraint": self.constraint,
            "nodelist": self.nodelist,
            "exclude": self.exclude,
            "account": account,
            "qos": self.qos,
        }
        return [f"--{name}={value}" for name, value in values.items() if value is not None]

    def _memory(self, packing: Packing) -> dict[str, str]:
        if packing.mem_mb is None:
            return {}
        if self.use_mem_per_cpu:
            return {"mem-per-cpu": f"{math.ceil(packing.mem_mb / packing.cpus)}M"}
        return {"mem": f"{packing.mem_mb}M"}

    def contradictions(self) -> Iterator[Contradiction]:
        """See `Options.contradictions`."""
        yield from _packing(self)
        yield from _too_large(self)
        yield from _gpus_twice(self)
        yield from _no_gpus(self)
        yield from _set_twice(self)
        if both := sorted(expand(self.nodelist or "") & expand(self.exclude or "")):
            yield ("nodelist", "exclude"), f"nodelist and exclude both name {', '.join(both)}"
        if len(named := expand(self.nodelist or "")) > 1:
            problem = f"nodelist names {len(named)} nodes, all of which SLURM would give to each array task"
            yield ("nodelist",), f"{problem}, which needs one; name one, or exclude those that are not meant"


def charged_account(options: SlurmOptions, slurm_account: str | None) -> str | None:
    """The account that pays: the run's, else the option, else the site's; None where nobody says.

    Raises InvalidInputError where run and option disagree.
    """
    if problem := account_problem(options, slurm_account):
        raise InvalidInputError(problem)
    return slurm_account or options.account or options.default_account


def account_problem(options: SlurmOptions, slurm_account: str | None) -> str | None:
    """What `charged_account` raises, for those who tell of several problems at once."""
    if slurm_account and options.account and slurm_account != options.account:
        where = options.told_origin("account")
        return f"account is {options.account!r}{where}, but the run's slurm_account is {slurm_account!r}"
    return None


def _packing(options: SlurmOptions) -> Iterator[Contradiction]:
    at_once, units = options.parallel_tasks_per_job, options.tasks_per_job
    if at_once is not None and units is not None and at_once > units:
        text = f"parallel_tasks_per_job={at_once} is more than tasks_per_job={units}"
        yield ("parallel_tasks_per_job", "tasks_per_job"), text
    for what in ("cpus_per_job", "mem_per_job", "num_jobs"):
        target, ceiling = getattr(options, f"target_{what}"), getattr(options, f"max_{what}")
        if target is not None and ceiling is not None and target > ceiling:
            text = f"target_{what}={target} is more than max_{what}={ceiling}"
            yield (f"target_{what}", f"max_{what}"), text


def _too_large(options: SlurmOptions) -> Iterator[Contradiction]:
    at_once = options.parallel_tasks_per_job or 1
    for name, ceiling_name in (("cpus_per_task", "max_cpus_per_job"), ("mem", "max_mem_per_job")):
        unit, ceiling = getattr(options, name), getattr(options, ceiling_name)
        if unit is None or ceiling is None or at_once * unit <= ceiling:
            continue
        if unit > ceiling:
            yield (name, ceiling_name), f"{name}={unit} is more than {ceiling_name}={ceiling}"
        else:
            yield (
                ("parallel_tasks_per_job", name, ceiling_name),
                f"parallel_tasks_per_job={at_once} units with {name}={unit} need {at_once * unit},"
                f" which is more than {ceiling_name}={ceiling}",
            )


def names_gpus(gres: str) -> bool:
    """Whether a value of `gres` is about GPUs, be it none."""
    return bool(_gpu_parts(gres))


def sets_gpus(line: str) -> bool:
    """Whether an extra line is about GPUs, be it none."""
    return any(
        name in GPU_LINES or (name == "gres" and names_gpus(value)) for name, value in sbatch_options(line)
    )


def gpu_keys(values: Mapping[str, object]) -> list[str]:
    """The options among them that ask for GPUs."""
    gpus, gres, lines = values.get("gpus"), values.get("gres"), values.get("extra_lines")
    found = ["gpus"] if gpus is not None and _are_some(str(gpus).split(",")) else []
    if isinstance(gres, str) and _are_some(_gpu_parts(gres)):
        found.append("gres")
    if isinstance(lines, list | tuple) and any(_asks_for_gpus(str(line)) for line in lines):
        found.append("extra_lines")
    return found


def without_gpus(gres: str) -> str:
    """What a value of `gres` asks for besides GPUs."""
    return ",".join(part for part in gres.split(",") if not _gpu_parts(part))


def _gpu_parts(gres: str) -> list[str]:
    parts = (part.strip().removeprefix("gres:") for part in gres.split(","))
    return [part for part in parts if part.split(":")[0] == "gpu"]


def _are_some(parts: Sequence[str]) -> bool:
    return any(part.rpartition(":")[2].strip() != "0" for part in parts)


def _asks_for_gpus(line: str) -> bool:
    return any(
        _are_some(value.split(",") if name in GPU_LINES else _gpu_parts(value))
        for name, value in sbatch_options(line)
        if name == "gres" or name in GPU_LINES
    )


def _gpus_twice(options: SlurmOptions) -> Iterator[Contradiction]:
    found = gpu_keys(dict(options))
    if len(found) > 1:
        yield found, f"{' and '.join(found)} ask for GPUs: use one of them"


def _no_gpus(options: SlurmOptions) -> Iterator[Contradiction]:
    if not options.needs_gpu or gpu_keys(dict(options)):
        return
    said = {
        "gpus": options.gpus is not None,
        "gres": names_gpus(options.gres or ""),
        "extra_lines": any(map(sets_gpus, options.extra_lines)),
    }
    if none := [name for name, is_said in said.items() if is_said]:
        text = f"needs_gpu is true, but there are to be no GPUs by {' and '.join(none)}"
        yield ("needs_gpu", *none), f"{text}; to run without, give the option needs_gpu=false"


def _set_twice(options: SlurmOptions) -> Iterator[Contradiction]:
    """Options that a line in extra_lines sets as well. GPUs are left to `_gpus_twice`."""
    lines: dict[str, str] = {}
    for name, value in (pair for line in options.extra_lines for pair in sbatch_options(line)):
        if lines.get(name, value) != value:
            yield ("extra_lines",), f"two lines in extra_lines set --{name}: {lines[name]!r} and {value!r}"
        lines[name] = value
    for name in lines:
        option = OPTION_OF_LINE.get(name)
        if option is None or (name in ("gres", "gpus") and len(gpu_keys(dict(options))) > 1):
            continue
        for key in (option, "default_account") if option == "account" else (option,):
            if key in options.model_fields_set and getattr(options, key) is not None:
                yield ("extra_lines", key), f"extra_lines sets --{name}, and so does the option {option}"
