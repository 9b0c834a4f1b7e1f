"""scancel."""

from __future__ import annotations

import pwd
import signal

from .. import records
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


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """Raises Refused."""
    options, ids = GRAMMAR.parse(words)
    filters = set(options) & {"name", "jobname", "user", "state", "account", "partition", "me"}
    if not ids and not filters:
        raise Refused("scancel: error: No job identification provided\n")
    for item in ids:
        if not item.partition("_")[0].isdecimal():
            raise Refused(f"scancel: error: Invalid job id {item}\n")
    if "user" in options:
        _check_user(options["user"])
    if ids:
        found = [(item, record) for item in ids for record in records.by_id(controller, item)]
    else:
        found = [(record.name, record) for record in records.every(controller)]
    errors = ""
    for item, record in found:
        if _matches(record, options, caller):
            errors += _cancel(controller, caller, item, record, options)
    if errors:
        raise Refused(errors, _DENIED if "denied" in errors else 1)
    return "", ""


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
    return all(options[key].upper() == str(value).upper() for key, value in wanted.items() if key in options)


def _cancel(
    controller: Controller, caller: Caller, item: str, record: Record, options: dict[str, str]
) -> str:
    if caller.uid not in (0, record.submission.uid):
        return f"scancel: error: Kill job error on job id {item}: Access/permission denied\n"
    if "signal" in options:
        name = options["signal"].upper().removeprefix("SIG")
        number = int(name) if name.isdecimal() else signal.Signals[f"SIG{name}"].value
        if record.job is None or record.job.state != RUNNING:
            return f"scancel: error: Kill job error on job id {item}: Invalid job id specified\n"
        if number != signal.SIGKILL:
            controller.node_side.tell(record.job.spool, do="signal", number=number)
            return ""
    if record.job is not None:
        controller.cancel(record.job, caller.uid)
    elif not record.submission.cancelled:
        individually = "_" in item
        controller.cancel_waiting(record.submission, record.tasks if individually else None, caller.uid)
    return ""
