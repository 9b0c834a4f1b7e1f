"""From the options of an sbatch to a submission."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

from . import arrays, hostlist, times
from .arguments import Refused
from .config import ClusterConfig
from .jobs import Submission
from .nodes import alternatives
from .sbatch_words import Asked, Caller, failed

_Value = TypeVar("_Value")
_DEPENDENCY = re.compile(
    r"(after(any|ok|notok|corr|burstbuffer)?(:\d+(_(\d+|\*))?(\+\d+)?)+|singleton)([,?]|$)"
)
_MAILS = (
    *("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT", "TIME_LIMIT"),
    *("TIME_LIMIT_50", "TIME_LIMIT_80", "TIME_LIMIT_90", "ARRAY_TASKS"),
)
_COUNT = re.compile(r"\+?(\d+)([km]?)$", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 1 << 10, "m": 1 << 20}


class Reader:
    """Options, read one by one into what a submission needs."""

    def __init__(self, asked: Asked, caller: Caller, config: ClusterConfig) -> None:
        self.options = asked.options
        self._asked = asked
        self._caller = caller
        self._config = config

    def submission(self, job_id: int) -> Submission:
        """Raises Refused, as sbatch itself or the controller would."""
        options = self.options
        if "mem" in options and "mem-per-cpu" in options:
            raise Refused("sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.\n")
        result = Submission(
            id=job_id,
            user=self._caller.user,
            uid=self._caller.uid,
            gid=self._caller.gid,
            name=options.get("job-name", self._default_name()),
            named="job-name" in options or "wrap" in options or self._asked.file is not None,
            script="",
            command=None
            if self._asked.file is None
            else " ".join([self._asked.file, *self._asked.words[1:]]),
            workdir=os.path.join(self._caller.cwd, options.get("chdir", self._caller.cwd)),
            env=self._caller.env,
            submitted=time.time(),
            comment=options.get("comment"),
            qos=options.get("qos", "normal"),
            append=options.get("open-mode", "truncate")[:1] in ("a", "A"),
            requeue=([name for name in options if "requeue" in name] or ["requeue"])[-1] == "requeue",
            kill_on_invalid_dep=options.get("kill-on-invalid-dep", "no").lower() == "yes",
            export=options.get("export"),
            held="JobHeldUser" if "hold" in options else None,
            dependency=options.get("dependency"),
            features=options.get("constraint"),
        )
        self._must_make_sense()
        self._sizes(result)
        self._places(result)
        self._files(result)
        return result

    def _must_make_sense(self) -> None:
        options = self.options
        mails = options.get("mail-type", "NONE").upper().split(",")
        if not set(mails) <= set(_MAILS):
            raise _invalid("mail-type")
        if options.get("open-mode", "truncate")[:1].lower() not in ("a", "t"):
            raise _invalid("open-mode")
        if options.get("kill-on-invalid-dep", "no").lower() not in ("yes", "no"):
            raise _invalid("kill-on-invalid-dep")
        if _DEPENDENCY.sub("", options.get("dependency", "")):
            raise failed("Job dependency problem", options)
        if "reservation" in options:
            raise failed("Requested reservation is invalid", options)
        if "licenses" in options:
            raise failed("Invalid license specification", options)

    def _default_name(self) -> str:
        if self._asked.file is not None:
            return os.path.basename(self._asked.file)
        return "wrap" if "wrap" in self.options else "sbatch"

    def _sizes(self, result: Submission) -> None:
        options = self.options
        least, most = self._nodes()
        ntasks = self._positive("ntasks", 0)
        result.cpus_asked, result.ntasks_asked = "cpus-per-task" in options, "ntasks" in options
        result.cpus_per_task = self._positive("cpus-per-task", 1)
        result.min_cpus = max(self._positive("mincpus", 1), result.cpus_per_task)
        result.mem_mb = self._read("mem", times.memory_mb)
        result.mem_per_cpu = self._read("mem-per-cpu", times.memory_mb)
        if result.mem_mb is None and result.mem_per_cpu is None:
            result.mem_per_cpu = self._config.def_mem_per_cpu
        result.minutes = self._read("time", times.minutes)
        result.begin = self._read("begin", times.begin)
        result.nodelist = self._nodelist(most)
        result.nodes = max(least, len(result.nodelist))
        result.ntasks = ntasks or result.nodes
        result.gpus = self._gpus()
        if "array" in options:
            try:
                result.array, result.throttle = arrays.parse(options["array"], self._config.max_array_size)
            except ValueError:
                raise failed("Invalid job array specification", options) from None
            result.waiting = list(result.array)

    def _read(self, name: str, read: Callable[[str], _Value]) -> _Value | None:
        text = self.options.get(name)
        if text is None:
            return None
        try:
            return read(text)
        except ValueError:
            raise _invalid(name) from None

    def _positive(self, name: str, default: int) -> int:
        text = self.options.get(name)
        if text is None:
            return default
        if not text.isdecimal() or int(text) < 1:
            raise Refused(f'sbatch: error: Invalid numeric value "{text}" for --{name}.\n')
        return int(text)

    def _nodes(self) -> tuple[int, int]:
        """How many at least, and at most; 0: any number."""
        text = self.options.get("nodes")
        if text is None:
            return 1, 0
        first, dash, last = text.partition("-")
        if not dash:
            return (least := self._count(first)), least
        least = self._count(first) if first else int(not last)
        most = self._count(last) if last else -1
        if most and most < least:
            raise Refused(
                f"sbatch: error: Maximum node count {most} is less than minimum node count {least}\n", 255
            )
        return least, most

    def _count(self, text: str) -> int:
        match = _COUNT.match(text)
        if match is None:
            raise Refused(f'sbatch: error: "{text}" is not a valid node count\n', 255)
        return int(match[1]) * _THOUSANDS[match[2].lower()]

    def _nodelist(self, most: int) -> list[str]:
        """Each node once."""
        try:
            names = list(dict.fromkeys(hostlist.expand(self.options.get("nodelist", ""))))
        except ValueError as error:
            raise Refused(f"sbatch: error: {error}\nsbatch: error: memory allocation failure\n") from None
        if 0 < most < len(names):
            raise Refused(f"sbatch: error: invalid number of nodes (-N {len(names)}-{most})\n")
        return names

    def _gpus(self) -> int:
        gres = self.options.get("gres")
        text = self.options.get("gpus") or gres or self.options.get("gpus-per-node", "none")
        last = text.split(":")[-1]
        if last in ("0", "none"):  # of whatever kind
            return 0
        is_gpu = text != gres or text.startswith("gpu")
        if not is_gpu or not any(node.gpus for node in self._config.nodes):
            raise Refused("sbatch: error: Invalid generic resource (gres) specification\n")
        return int(last) if last.isdecimal() else 1

    def _places(self, result: Submission) -> None:
        result.partition = self._partition()
        try:
            result.exclude = hostlist.expand(self.options.get("exclude", ""))
        except ValueError:
            raise failed("Invalid node name specified", self.options) from None
        if set(result.nodelist + result.exclude) - set(self._config.node_names()):
            raise failed("Invalid node name specified", self.options)
        result.account = self._account(result.user)
        features = {name for node in self._config.nodes for name in node.features}
        if result.features and not set().union(*alternatives(result.features)) <= features:
            raise failed("Invalid feature specification", self.options)

    def _partition(self) -> str:
        """One, or several with commas."""
        known = {partition.name: partition for partition in self._config.partitions}
        asked = self.options.get("partition")
        if asked is None:
            return next(name for name, partition in known.items() if partition.default)
        names = [name for name in asked.split(",") if name]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = unknown[0] if unknown else "(null)"
            error = failed("Invalid partition name specified", self.options)
            raise Refused(f"sbatch: error: invalid partition specified: {wrong}\n{error.message}")
        return ",".join(dict.fromkeys(names))

    def _account(self, user: str) -> str | None:
        asked = self.options.get("account")
        allowed = self._config.accounts_of(user)
        if allowed is None:
            return asked
        if asked in allowed or (asked is None and allowed):
            return asked or allowed[0]
        raise failed("Invalid account or account/partition combination specified", self.options)

    def _files(self, result: Submission) -> None:
        default = "slurm-%A_%a.out" if result.array is not None else "slurm-%j.out"
        result.stdout = os.path.join(result.workdir, self.options.get("output") or default)
        error = self.options.get("error")
        result.stderr = os.path.join(result.workdir, error) if error else result.stdout


def _invalid(name: str) -> Refused:
    return Refused(f"sbatch: error: Invalid --{name} specification\n", 255)
