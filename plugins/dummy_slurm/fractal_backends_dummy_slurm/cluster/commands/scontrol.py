"""scontrol."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from .. import hostlist, records
from ..arguments import Refused
from ..controller import Controller
from ..jobs import PENDING, RUNNING
from ..records import Record
from ..sbatch_words import Caller
from . import show

_ID = re.compile(r"\d+(_\d+(-\d+)?(,\d+(-\d+)?)*)?", re.ASCII)
_BRACKETS = re.compile(r"_\[([\d,-]*)\]$", re.ASCII)
_NO_JOB = "slurm_suspend error: Invalid job id specified\n"
_Command = Callable[[Controller, Caller, list[str]], str]


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """Raises Refused."""
    oneliner = any(word in ("--oneliner", "-o") for word in words)
    words = [word for word in words if not word.startswith("-")]
    if not words:
        raise Refused("")
    keyword, rest = words[0].lower(), words[1:]
    if keyword == "show":
        return _show(controller, rest, oneliner), ""
    command = _COMMANDS.get(keyword)
    if command is None:
        raise Refused(f"invalid keyword: {words[0]}\n")
    return command(controller, caller, rest), ""


def _show(controller: Controller, words: list[str], oneliner: bool) -> str:
    entity, rest = (words[0].lower() if words else ""), words[1:]
    which = rest[0] if rest else None
    if entity in ("job", "jobs"):
        return show.jobs(controller, which, oneliner)
    if entity in ("partition", "partitions"):
        return show.partitions(controller, which, oneliner)
    if entity in ("node", "nodes"):
        return show.nodes(controller, which, oneliner)
    if entity == "config":
        return show.config(controller)
    if entity == "hostnames":
        return _hostnames(which or "")
    raise Refused(f"invalid entity:{entity} for keyword:show \n")


def _hostnames(which: str) -> str:
    try:
        return "".join(name + "\n" for name in hostlist.expand(which))
    except ValueError as error:
        raise Refused(f"scontrol: error: {error}\nInvalid hostlist: {which}\n", 0) from None


def _ping(controller: Controller, caller: Caller, words: list[str]) -> str:
    return "Slurmctld(primary) at localhost is UP\n"


def _update(controller: Controller, caller: Caller, words: list[str]) -> str:
    values = {key.lower(): value for key, _, value in (word.partition("=") for word in words)}
    if "nodename" not in values:
        raise Refused(
            "No valid entity in update command\n"
            'Input line must include "NodeName", "PartitionName", "Reservation", "JobId", or'
            ' "SlurmctldDebug"\n'
        )
    if caller.uid not in (0, controller.owner):
        raise Refused("slurm_update error: Invalid user id\n")
    if values.get("state", "").lower() in ("down", "drain", "fail") and not values.get("reason"):
        raise Refused("You must specify a reason when DOWNING or DRAINING a node. Request denied\n")
    try:
        names = hostlist.expand(values["nodename"])
    except ValueError:
        raise Refused("slurm_update error: Invalid node name specified\n") from None
    if set(names) - set(controller.cluster.nodes):
        raise Refused("slurm_update error: Invalid node name specified\n")
    for name in names:
        _set_node(controller, caller, name, values.get("state", "").lower(), values.get("reason", ""))
    return ""


def _set_node(controller: Controller, caller: Caller, name: str, state: str, reason: str) -> None:
    node = controller.cluster.nodes[name]
    if state in ("resume", "idle", "undrain"):
        if node.state == "UP":
            raise Refused("slurm_update error: Invalid node state specified\n")
        controller.node_up(name)
    elif state == "down":
        controller.node_down(name, reason, "told", None)
    elif state in ("drain", "fail"):
        node.state, node.reason, node.since, node.back_at = "DRAIN", reason, time.time(), None
        controller.save_node(name)
    elif state:
        raise Refused("Invalid input: state\nRequest aborted\n")


def _found(controller: Controller, item: str, more: str) -> list[Record]:
    """Raises Refused."""
    plain = _BRACKETS.sub(r"_\1", item)
    try:
        if _ID.fullmatch(plain):
            return records.by_id(controller, plain)
    except ValueError:
        pass
    raise Refused(f"Invalid job id specified for job {plain}\n{more}")


def _of_jobs(act: Callable[[Controller, Record], str | None], more: str = "") -> _Command:
    """Act on each job that is named. What `act` returns is why it cannot be done; `more` is said of ids that
    are none."""

    def command(controller: Controller, caller: Caller, words: list[str]) -> str:
        errors = ""
        for item in records.split(",".join(words)):
            found = _found(controller, item, more)
            if not found:
                task = _BRACKETS.sub(r"_\1", item)
                no_job = "Invalid job id specified"
                errors += f"{task}: {no_job}\n" if "_" in task else f"{no_job} for job {item}\n"
            for record in found:
                if caller.uid not in (0, record.submission.uid):
                    errors += f"Access/permission denied for job {item}\n"
                elif (why := act(controller, record)) is not None:
                    errors += (
                        f"{record.submission.id}_{record.index}: {why}\n"
                        if record.is_array
                        else f"{why} for job {item}\n"
                    )
        if errors:
            raise Refused(errors)
        return ""

    return command


def _requeue(controller: Controller, record: Record) -> str | None:
    job = record.job
    if not record.submission.requeue:
        return "Requested operation is presently disabled"
    if job is None or job.state == PENDING:
        return "Job is pending execution"
    if job.state == RUNNING:
        controller.requeue(job, "BeginTime", " DUE TO JOB REQUEUE")
    elif job.completing:
        return "Job/step already completing or completed"
    else:
        controller.requeue(job, "BeginTime", None)
    return None


def _hold(controller: Controller, record: Record) -> str | None:
    reason = "JobHeldAdmin" if controller.owner == 0 else "JobHeldUser"
    if record.job is None:
        record.submission.held = reason
        controller.set_reason(record.submission, reason)
    elif record.job.state == PENDING:
        record.job.held = reason
        controller.set_reason(record.job, reason)
    else:
        return "Job is no longer pending execution"
    return None


def _release(controller: Controller, record: Record) -> str | None:
    if record.job is not None:
        if record.job.state != PENDING:
            return "Job is no longer pending execution"
        record.job.held = None
    elif record.tasks == record.submission.waiting:
        record.submission.held = None
    else:  # some tasks of an array become jobs of their own
        for index in record.tasks or ():
            controller.set_reason(controller.split(record.submission, index), "Priority")
        controller.save_submission(record.submission)
    return None


_COMMANDS: dict[str, _Command] = {
    "ping": _ping,
    "update": _update,
    "requeue": _of_jobs(_requeue),
    "hold": _of_jobs(_hold, _NO_JOB),
    "release": _of_jobs(_release, _NO_JOB),
}
