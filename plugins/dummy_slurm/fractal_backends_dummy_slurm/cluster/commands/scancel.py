"""scancel."""

from __future__ import annotations

import pwd
import re
import signal

from .. import hostlist, records
from ..arguments import Grammar, Refused
from ..controller import Controller
from ..jobs import RUNNING
from ..records import Record
from ..sbatch_words import Caller

GRAMMAR = Grammar(
    "scancel",
    "name jobname user signal state account partition nodelist",
    "quiet verbose batch full hurry me",
    "n=name u=user s=signal t=state A=account p=partition Q=quiet v=verbose b=batch f=full",
)
_DENIED = 210
_ID = re.compile(r"(\d+)((?:_(?:\d*|\*|\[[^\[\]]*\])|\+\d+)?)", re.ASCII)
_SIGNALS = {
    *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT", "STOP", "TSTP"),
    *("TTIN", "TTOU", "XCPU"),
}
"""Those that have names."""


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """Raises Refused."""
    options, ids = GRAMMAR.parse(words)
    filters = set(options) & {"name", "jobname", "user", "state", "account", "partition", "me", "nodelist"}
    number = _signal(options["signal"]) if "signal" in options else None
    if not ids and not filters:
        raise Refused("scancel: error: No job identification provided\n")
    named = list(filter(None, map(_job, ids)))
    if "user" in options:
        _check_user(options["user"])
    if ids:
        found = [(item, record) for item in named for record in records.by_id(controller, item)]
    else:
        found = [(record.name, record) for record in records.every(controller)]
    errors = ""
    for item, record in found:
        if _matches(record, options, caller):
            errors += _cancel(controller, caller, item, record, number)
    if errors:
        raise Refused(errors, _DENIED if "denied" in errors else 1)
    return "", ""


def _signal(text: str) -> int:
    """Of 16 bits, and maybe of none that there is: that one changes nothing. Raises Refused."""
    if re.fullmatch(r"-?\d+", text, re.ASCII) and (number := int(text) & 0xFFFF):
        return number
    name = text.upper().removeprefix("SIG")
    if name not in _SIGNALS:
        raise Refused(f"Unknown job signal: {text}\n")
    return signal.Signals[f"SIG{name}"].value


def _job(item: str) -> str | None:
    """What is meant; None: nothing that there is. Raises Refused."""
    match = _ID.fullmatch(item)
    error = ""
    if match is not None:
        number, tasks = match.groups()
        try:
            if tasks.startswith("_["):
                hostlist.expand(tasks[1:])
            return number if tasks == "_*" else item if tasks[:1] != "+" and tasks != "_" else None
        except ValueError as problem:
            error = f"scancel: error: {problem}\n"
    raise Refused(f"{error}scancel: error: Invalid job id {item}\n")


def _check_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"scancel: error: Invalid user name: {name}\n") from None


def _matches(record: Record, options: dict[str, str], caller: Caller) -> bool:
    asked = record.submission
    wanted = {
        "name": asked.name,
        "jobname": asked.name,
        "user": asked.user,
        "account": asked.account,
        "partition": record.partition,
        "state": record.shown_state,
    }
    if "me" in options and asked.uid != caller.uid:
        return False
    if "nodelist" in options and not records.is_on(
        record, records.nodes("scancel", "nodelist", options["nodelist"])
    ):
        return False
    return all(options[key].upper() == str(value).upper() for key, value in wanted.items() if key in options)


def _cancel(controller: Controller, caller: Caller, item: str, record: Record, number: int | None) -> str:
    if caller.uid not in (0, record.submission.uid):
        return f"scancel: error: Kill job error on job id {item}: Access/permission denied\n"
    if number is not None:
        if record.job is None or record.job.state != RUNNING:
            return f"scancel: error: Kill job error on job id {item}: Invalid job id specified\n"
        if number != signal.SIGKILL:
            if number in signal.valid_signals():
                controller.node_side.tell(record.job.spool, do="signal", number=number)
            return ""
    if record.job is not None:
        controller.cancel(record.job, caller.uid)
    elif not record.submission.cancelled:
        individually = "_" in item
        controller.cancel_waiting(record.submission, record.tasks if individually else None, caller.uid)
    return ""
