"""sacct: the database's view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from .. import arrays, hostlist, records, times
from ..accounting import Row
from ..arguments import Grammar, Refused
from ..controller import Controller
from ..jobs import CANCELLED, PENDING, Submission
from ..sbatch_words import Caller

GRAMMAR = Grammar(
    "sacct",
    "jobs format name user state starttime endtime accounts partition delimiter",
    "noheader parsable parsable2 allocations duplicates allusers long version",
    "n=noheader p=parsable P=parsable2 X=allocations D=duplicates j=jobs o=format u=user s=state S=starttime"
    " E=endtime a=allusers",
)
_DISABLED = "Slurm accounting storage is disabled\n"
_DEFAULT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
_Values = dict[str, str]


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """Raises Refused."""
    options, _ = GRAMMAR.parse(words)
    if "version" in options:
        return "slurm-wlm 22.05.8\n", ""
    if not controller.config.accounting:
        raise Refused(_DISABLED)
    wanted = _ids(options)
    names = [item.partition("%")[0] for item in options.get("format", _DEFAULT).split(",")]
    lines = [] if "noheader" in options else [_line(options, {name.lower(): name for name in names}, names)]
    only, users = records.names(options.get("name")), records.names(options.get("user"))
    for submission, values in _all(controller, "duplicates" in options):
        if wanted is not None and not _is_wanted(values, wanted):
            continue
        if (only is None or submission.name in only) and (users is None or submission.user in users):
            lines.append(_line(options, values, names))
    return "".join(line + "\n" for line in lines), ""


def _ids(options: dict[str, str]) -> list[str] | None:
    if "jobs" not in options:
        return None
    ids = set(records.split(options["jobs"]))
    for item in sorted(ids):
        job, underscore, task = item.partition("_")
        if not job[:1].isdecimal():
            raise Refused(f"sacct: fatal: Bad job/step specified: {item}\n")
        if underscore and not task[:1].isdecimal():
            raise Refused(f"sacct: fatal: Bad job array element specified: {job}\n")
    return sorted(ids)


def _is_wanted(values: _Values, wanted: list[str]) -> bool:
    own = {values["jobid"], values["jobidraw"], values["jobid"].partition("_")[0]}
    return bool(own & set(wanted))


def _all(controller: Controller, duplicates: bool) -> Iterator[tuple[Submission, _Values]]:
    now = time.time()
    latest: dict[int, int] = {}
    rows = list(controller.accounting.rows(now))
    for row in rows:
        latest[row.job.id] = max(latest.get(row.job.id, 0), row.job.restarts)
    for row in rows:
        if duplicates or row.job.restarts == latest[row.job.id]:
            yield row.submission, _of_row(row)
    for submission, left in controller.accounting.waiting(now):
        yield submission, _of_waiting(submission, left)


def _of_row(row: Row) -> _Values:
    job, started = row.job, bool(row.job.nodes)
    state = row.state
    if state == CANCELLED and job.cancelled_by is not None:
        state = f"{CANCELLED} by {job.cancelled_by}"
    killed = row.state in (CANCELLED, "TIMEOUT", "NODE_FAIL", "REQUEUED")
    return {
        **_of_submission(row.submission),
        "partition": job.partition or row.submission.partition,
        "jobid": job.name,
        "jobidraw": str(job.id),
        "state": state,
        "exitcode": "0:0" if killed else f"{job.code}:{job.signal}",
        "nodelist": hostlist.compress(job.nodes) if started else "None assigned",
        "start": times.point(job.started) if started or row.state != CANCELLED else "None",
        "end": times.point(job.ended),
        "reason": job.reason if row.state == PENDING or job.cancelled_by is not None else "None",
        "restarts": str(job.restarts),
    }


def _of_waiting(submission: Submission, left: list[int]) -> _Values:
    state = PENDING if submission.cancelled is None else CANCELLED
    if submission.cancelled is not None and submission.cancelled_by is not None:
        state += f" by {submission.cancelled_by}"
    job_id = (
        str(submission.id) if left == [-1] else f"{submission.id}_[{arrays.show(left, submission.throttle)}]"
    )
    return {
        **_of_submission(submission),
        "jobid": job_id,
        "jobidraw": str(submission.id),
        "state": state,
        "exitcode": "0:0",
        "nodelist": "None assigned",
        "start": "Unknown" if submission.ended is None else "None",
        "end": times.point(submission.ended),
        "reason": submission.reason,
        "restarts": "0",
    }


def _of_submission(submission: Submission) -> _Values:
    return {
        "jobname": submission.name,
        "partition": submission.partition,
        "account": submission.account or "",
        "user": submission.user,
        "uid": str(submission.uid),
        "alloccpus": str(submission.all_cpus),
        "reqmem": times.show_memory(submission.memory),
        "submit": times.point(submission.submitted),
        "comment": submission.comment or "",
        "derivedexitcode": "0:0",
        "timelimit": times.limit_long(submission.minutes),
        "workdir": submission.workdir,
        "qos": submission.qos,
    }


def _line(options: dict[str, str], values: _Values, names: list[str]) -> str:
    for name in names:
        if name.lower() not in values:
            raise Refused(f'sacct: error: Invalid field requested: "{name}"\n')
    texts = [values[name.lower()] for name in names]
    if "parsable2" in options:
        return options.get("delimiter", "|").join(texts)
    if "parsable" in options:
        return "".join(text + "|" for text in texts)
    show: Callable[[str], str] = lambda text: (text if len(text) <= 10 else text[:9] + "+").rjust(10)  # noqa: E731
    return " ".join(show(text) for text in texts) + " "
