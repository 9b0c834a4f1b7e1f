"""squeue."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from .. import records, times
from ..arguments import Grammar, Refused
from ..controller import Controller
from ..jobs import COMPLETING, PENDING, SHORT
from ..records import Record
from ..sbatch_words import Caller
from .columns import fill

GRAMMAR = Grammar(
    "squeue",
    "jobs format name states user account partition nodelist sort",
    "noheader array all long me version",
    "h=noheader r=array j=jobs o=format n=name t=states u=user A=account p=partition w=nodelist S=sort a=all",
)
_FORMAT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_ID = re.compile(r"(\d+)(?:_(\d*))?", re.ASCII)
_ACTIVE = (PENDING, "RUNNING", "SUSPENDED", COMPLETING, "CONFIGURING")


def _time_used(record: Record) -> str:
    if record.job is None or record.job.started is None or not record.nodes:
        return "0:00"
    return times.span_short((record.ended or time.time()) - record.job.started)


def _nodes_or_reason(record: Record) -> str:
    return record.nodes if record.nodes and record.shown_state != "FAILED" else f"({record.reason})"


def _minutes(record: Record) -> str:
    limit = record.submission.minutes
    return "UNLIMITED" if limit is None else times.span_short(limit * 60)


def _memory(record: Record) -> str:
    asked = record.submission
    return times.show_memory(asked.mem_mb if asked.mem_mb is not None else asked.mem_per_cpu or 0)


_VALUES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "A": ("JOBID", lambda record: str(record.id)),
    "F": ("ARRAY_JOB_ID", lambda record: str(record.submission.id)),
    "K": ("ARRAY_TASK_ID", lambda record: record.index),
    "i": ("JOBID", lambda record: record.name),
    "T": ("STATE", lambda record: record.shown_state),
    "t": ("ST", lambda record: SHORT[record.shown_state]),
    "r": ("REASON", lambda record: record.reason),
    "N": ("NODELIST", lambda record: record.nodes),
    "R": ("NODELIST(REASON)", _nodes_or_reason),
    "j": ("NAME", lambda record: record.submission.name),
    "u": ("USER", lambda record: record.submission.user),
    "U": ("UID", lambda record: str(record.submission.uid)),
    "P": ("PARTITION", lambda record: record.partition),
    "a": ("ACCOUNT", lambda record: record.submission.account or "(null)"),
    "q": ("QOS", lambda record: record.submission.qos),
    "k": (
        "COMMENT",
        lambda record: "(null)" if record.submission.comment is None else record.submission.comment,
    ),
    "D": ("NODES", lambda record: str(record.submission.nodes)),
    "C": ("CPUS", lambda record: str(record.cpus)),
    "m": ("MIN_MEMORY", _memory),
    "l": ("TIME_LIMIT", _minutes),
    "M": ("TIME", _time_used),
    "Z": ("WORK_DIR", lambda record: record.submission.workdir),
    "V": ("SUBMIT_TIME", lambda record: times.point(record.submission.submitted)),
    "S": ("START_TIME", lambda record: times.point(record.started, "N/A")),
    "e": ("END_TIME", lambda record: times.point(record.ended, "N/A")),
}


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """What is printed to stdout and stderr. Raises Refused."""
    options, _ = GRAMMAR.parse(words)
    if "version" in options:
        return "slurm-wlm 22.05.8\n", ""
    states = _states(options)
    found = list(_wanted(controller, options))
    chosen: Iterable[Record] = records.expand(found) if "array" in options else found
    lines = [] if "noheader" in options else [_line(options, None)]
    only = records.names(options.get("name"))
    users = records.names(options.get("user"))
    accounts = records.names(options.get("account"))
    partitions = records.names(options.get("partition"))
    nodes = _nodes(controller, options["nodelist"]) if "nodelist" in options else None
    for record in chosen:
        if states is not None and record.shown_state not in states:
            continue
        asked = record.submission
        if ("me" in options and asked.uid != caller.uid) or (nodes and not records.is_on(record, nodes)):
            continue
        among = [(only, [asked.name]), (users, [asked.user]), (partitions, record.partition.split(","))]
        among.append((accounts, [asked.account or ""]))
        if all(allowed is None or set(values) & set(allowed) for allowed, values in among):
            lines.append(_line(options, record))
    return "".join(line + "\n" for line in lines), ""


def _nodes(controller: Controller, text: str) -> list[str]:
    """Raises Refused."""
    nodes = records.nodes("squeue", "nodelist", text)
    for name in nodes:
        if name not in controller.cluster.nodes:
            raise Refused(f"squeue: error: Invalid node name {name}\n")
    return nodes


def _wanted(controller: Controller, options: dict[str, str]) -> Iterable[Record]:
    if "jobs" not in options:
        return list(records.every(controller))
    ids = _ids(options["jobs"])
    found = [record for item in ids for record in records.by_id(controller, item)]
    if not found and len(ids) == 1 and not records.by_id(controller, ids[0].partition("_")[0]):
        raise Refused("slurm_load_jobs error: Invalid job id specified\n")
    return found


def _ids(text: str) -> list[str]:
    """As squeue reads them: it leaves out what follows a number, and takes a missing one for 0.
    Raises Refused."""
    ids = []
    for item in filter(None, text.split(",")):
        match = _ID.match(item)
        if match is None:
            raise Refused(f"squeue: error: Invalid job id: {item}\n")
        ids.append(match[1] if match[2] is None else f"{match[1]}_{match[2] or 0}")
    return ids


def _states(options: dict[str, str]) -> set[str] | None:
    text = options.get("states")
    if text is None:
        return set(_ACTIVE)
    if text.lower() == "all":
        return None
    long = {short: state for state, short in SHORT.items()}
    chosen = set()
    for item in text.upper().split(","):
        state = long.get(item, item)
        if state not in SHORT:
            raise Refused(
                f"squeue: error: Invalid job state specified: {text}\n"
                f"squeue: error: Valid job states include: {','.join(SHORT)}\n\n"
            )
        chosen.add(state)
    return chosen


def _line(options: dict[str, str], record: Record | None) -> str:
    def text_of(letter: str) -> str:
        if letter not in _VALUES:
            raise Refused(f"squeue: error: Invalid job format specification: {letter}\n")
        header, read = _VALUES[letter]
        return header if record is None else read(record)

    return fill(options.get("format", _FORMAT), text_of)
