"""From what a compute node wrote down and what the scheduler says to the verdict on a unit."""

from __future__ import annotations

import pwd
import re
from dataclasses import replace
from pathlib import Path

from fractal_backends import Cause, Outcome

from .receipts import End, Note
from .scheduler import JobState

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
GONE = JobState("GONE", "SLURM has no record of it; receipts may be late")
"""What is told while an array task that waited is looked for."""
WITHDRAWN = JobState("CANCELLED")
"""Of an array task that was cancelled out of an array that waits SLURM keeps no record."""
FORGOTTEN = "FORGOTTEN"
"""Not SLURM's word: what a controller ended because it had been started again, and forgotten that it ran."""

_TO_START = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED"})
"""States of array tasks that have not been given a node, unless they are held."""
_SCRIPT_LOST = re.compile(r"JobLaunchFailure|RaisedSignal")
"""Reasons why a job failed that was started: its script was killed."""
_NODE_LOST = frozenset({"NODE_FAIL", "BOOT_FAIL"})
_OF_STATE = {
    "CANCELLED": Cause.CANCELLED,
    "REVOKED": Cause.CANCELLED,
    "PREEMPTED": Cause.CANCELLED,
    "TIMEOUT": Cause.TIME_LIMIT,
    "DEADLINE": Cause.TIME_LIMIT,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "NODE_FAIL": Cause.NODE_FAILURE,
    "BOOT_FAIL": Cause.NODE_FAILURE,
    FORGOTTEN: Cause.NODE_FAILURE,
}
_ENDED_FROM_OUTSIDE = _OF_STATE.keys() - _NODE_LOST - {FORGOTTEN}
ENDS = _OF_STATE.keys() | {"COMPLETED", "FAILED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""A state that is not known is none."""
_OF_SLURM = re.compile(r"^(?:slurm[^:\n]*|srun|\[[^]\n]*\] error): .*", re.MULTILINE)
"""A line of SLURM's own, among what worker_init or srun's command may have printed."""
_POLLED = re.compile("exceeded memory limit", re.IGNORECASE)
"""SLURM looked itself, and ended what used more."""
_MEMORY = re.compile(_POLLED.pattern + "|oom.kill|out of memory|memory limit at some point", re.IGNORECASE)
_TIME = re.compile(r"due to time limit", re.IGNORECASE)
_CANCELLED = re.compile(r"\bCANCELLED AT\b")
_LOST_SCRIPT = re.compile(r"execve\(\): .*/slurm_script: No such file")
"""Of slurmstepd: a node that registers takes the script of a job that it is launching for a leftover."""
_NEVER = re.compile(
    r"DependencyNeverSatisfied|Partition(Time|Node)Limit|PartitionConfig|BadConstraints|InvalidAccount|InvalidQOS"
    r"|(Account|Group|QOS)NotAllowed|Max(Wall|Cpu|Mem|Node|GRES|TRES)\w*Per(Job|Node)\w*|AssocMaxWall\w*",
)
"""Reasons to wait for which waiting does not help."""
_NEVER_ANYWHERE = re.compile(r"DependencyNeverSatisfied|BadConstraints|InvalidAccount|InvalidQOS")
"""The same of a job that waits for one of several partitions: other reasons are of the one looked at last."""
_TIMED_OUT = 124
"""What `timeout` returns."""
_KILL, _TERM = 9, 15
_MOST_WORDS = 1_000
_FAILED_LAUNCH = 53
"""SLURM's "signal" for a job whose folder or output file cannot be used."""


def will_start(state: JobState) -> bool:
    """Whether an array task waits for a start, and nobody has to release it."""
    return state.state in _TO_START and "held" not in state.reason.lower()


def can_never_start(state: JobState) -> bool:
    """Whether a pending array task waits for something that does not come by waiting."""
    never = _NEVER_ANYWHERE if "," in state.partition else _NEVER
    return state.state == "PENDING" and never.search(state.reason) is not None


def was_lost_with_its_node(state: JobState) -> bool:
    """Whether SLURM could not see to it that the job came to its end."""
    return state.state in _NODE_LOST or state.state == FORGOTTEN


def was_ended_from_outside(state: JobState) -> bool:
    """Whether the script of a job that had begun did not come to its own end."""
    is_lost = state.state == "FAILED" and _SCRIPT_LOST.match(state.reason) is not None
    return is_lost or state.state in _ENDED_FROM_OUTSIDE


def may_run(state: JobState) -> bool:
    """Whether an array task has a node, as far as is known: states that are not known count."""
    return state.state not in ENDS | WAITING


def of_end(note: Note, end: End, limit_s: int | None, *, is_last: bool) -> Outcome | None:
    """The verdict on a command that ended; None where it takes the scheduler's word (`of_end_and_state`).

    `is_last`: no other unit of its array task is left, of which the scheduler's word may be.
    """
    if end.oom_kills > 0:
        return _measured(Outcome(Cause.OUT_OF_MEMORY, _out_of_memory(note, end)), end)
    if end.is_good:
        return _measured(Outcome.exited(0), end)
    if limit_s is not None and end.wall_s >= limit_s and was_ended(end):
        return _measured(Outcome(Cause.TIME_LIMIT, f"It ran for more than {limit_s} s on {note.host}."), end)
    may_be_for_memory = end.oom_kills < 0 and (is_last or was_ended(end))
    return None if may_be_for_memory or end.signal in (_KILL, _TERM) else _exited(note, end)


def of_end_and_state(
    note: Note, end: End, state: JobState | None, words: str = "", *, lived_on: bool = False
) -> Outcome:
    """The verdict on a command that failed, with what became of its array task, and SLURM's words on that.

    `lived_on`: the array task was seen to run after this end, which was then no part of its own.
    """
    kernel_tells = end.oom_kills >= 0
    said = state.state if state is not None else ""
    # What was lost with its node wrote no end; what the kernel ended was of another unit where it tells.
    no_word = _NODE_LOST | {"OUT_OF_MEMORY"} if kernel_tells else _NODE_LOST
    if state is not None and said in _OF_STATE and said not in no_word:
        if lived_on and said != "OUT_OF_MEMORY":
            return _exited(note, end)
        return _measured(Outcome(_OF_STATE[state.state], _story(state, note)), end)
    if was_ended(end) and _says(_POLLED if kernel_tells else _MEMORY, words):
        info = f"SLURM ended its job on {note.host}.{_said(words)}"
        return _measured(Outcome(Cause.OUT_OF_MEMORY, info), end)
    return _exited(note, end)


def of_step(note: Note, words: str) -> Outcome | None:
    """The verdict on a unit whose step ended before it could write down how; None: the scheduler says."""
    said = _said(words)
    if _says(_MEMORY, words):
        return Outcome(Cause.OUT_OF_MEMORY, f"SLURM ended its step on {note.host}.{said}")
    if _says(_TIME, words):
        return Outcome(Cause.TIME_LIMIT, f"SLURM ended its step on {note.host}.{said}")
    if _says(_CANCELLED, words):
        return Outcome(Cause.CANCELLED, f"Its step was cancelled on {note.host}.{said}")
    if note.started_at is None:  # its job is ending, or the controller is away, or has forgotten the job
        return None
    if note.step is not None and note.step > 128:
        return Outcome(Cause.KILLED, f"Its step was ended on {note.host}.{said}", signal=note.step - 128)
    return Outcome(Cause.LOST, f"Its step ended on {note.host} without a word on how the unit did.{said}")


def of_step_and_state(note: Note, alone: Outcome, state: JobState | None, words: str) -> Outcome:
    """The verdict on a unit whose step was killed or cancelled, perhaps with its array task of this state.

    `alone`: the verdict of `of_step`.
    """
    if state is None or state.state not in _OF_STATE:
        return alone
    if note.started_at is None:
        return of_unstarted(note, state, words)
    return of_interrupted(note, state, words, started_again=False)


def of_interrupted(note: Note, state: JobState | None, words: str, started_again: bool) -> Outcome:
    """The verdict on a unit that was started, and whose array task ended without a word on its end."""
    if note.started_at is None:
        return Outcome(
            Cause.LOST, "A start of its job had claimed it, and left no word on what became of it."
        )
    if started_again or (state is not None and state.state in _NODE_LOST):
        how = "SLURM started its job again; it may have done work" if started_again else "the node failed"
        outcome = Outcome(Cause.NODE_FAILURE, f"It ran on {note.host} when {how}; it was not started again.")
        return outcome if note.end is None else _measured(outcome, note.end)
    if _says(_MEMORY, words):
        return Outcome(Cause.OUT_OF_MEMORY, f"SLURM ended its job on {note.host}.{_said(words)}")
    if state is None or (state.state not in ENDS and not state.of_controller):  # see `of_unstarted`
        return Outcome(
            Cause.LOST, f"It was started on {note.host} by job {note.job}, which SLURM knows no more."
        )
    if state.state in _OF_STATE:
        return Outcome(_OF_STATE[state.state], _story(state, note) + _said(words))
    if state.signal:
        return Outcome(Cause.KILLED, f"Its job was ended on {note.host}.{_said(words)}", signal=state.signal)
    unknown = f"Nothing was written down of its end on {note.host}"
    return Outcome(Cause.LOST, f"{unknown}; SLURM says {state.state} of the job.{_said(words)}")


def of_the_others(state: JobState | None, words: str) -> tuple[JobState | None, str]:
    """What became of an array task, and SLURM's words, for the units beside one that ran out of memory: that
    alone makes SLURM say so of all."""
    if state is not None and state.state == "OUT_OF_MEMORY":
        was_cancelled = state.cancelled_by is not None or _says(_CANCELLED, words)
        said = "TIMEOUT" if _says(_TIME, words) else "CANCELLED" if was_cancelled else "FAILED"
        state = replace(state, state=said, reason="", exit_code=None, signal=None)
    lines = words.splitlines(keepends=True)
    return state, "".join(line for line in lines if _POLLED.search(line) or not _says(_MEMORY, line))


def without_receipts(folder: Path) -> Outcome:
    """The verdict on a unit of an earlier runner whose submission's folder is not there."""
    info = (
        f"The files of its submission are not in {folder}: it was not submitted, or another runner took it."
    )
    return Outcome(Cause.LOST, info)


def of_unstarted(note: Note, state: JobState | None, words: str) -> Outcome:
    """The verdict on a unit that its array task did not come to, or could not start."""
    if _says(_MEMORY, words):
        return Outcome(Cause.OUT_OF_MEMORY, f"It was not started: SLURM ended its job.{_said(words)}")
    unwritten = f"Nothing could be written to the folder of its submission on {note.host}."
    if state is None or may_run(state):  # accounting may think so for ever
        unknown = "SLURM knows nothing of its job any more, which did not start it."
        return Outcome(Cause.LOST, unwritten if note.refused == "receipt" else unknown)
    # Nobody but SLURM itself cancels for this reason.
    in_vain = state.reason == "DependencyNeverSatisfied"
    cause = Cause.LAUNCH_FAILED if in_vain else _OF_STATE.get(state.state, Cause.LAUNCH_FAILED)
    info = f"It was not started: {_story(state, None)}{_said(words)}"
    if cause is Cause.LAUNCH_FAILED and note.refused == "receipt":
        return Outcome(cause, unwritten)
    if cause is Cause.LAUNCH_FAILED and was_given_up(note):
        return Outcome(Cause.LOST, f"It was not started: its job on {note.host} seemed to be lost.")
    if cause is Cause.LAUNCH_FAILED and note.step is not None:
        return Outcome(cause, f"srun could not start it.{_said(words)}")
    if state.signal == _FAILED_LAUNCH:
        info += " The folder of the run, or a file in it, cannot be used on the node."
    elif state.state in ("COMPLETED", "FAILED"):
        info += (
            " What comes before its units, worker_init or a shebang that is no shell, may have ended it;"
            " or its folder cannot be written to, for want of room for instance."
        )
    return Outcome(cause, info)


def was_never_launched(words: str) -> bool:
    """Whether SLURM lost the script of a job before it started it."""
    return _says(_LOST_SCRIPT, words)


def was_given_up(note: Note) -> bool:
    """Whether a job script did not start a unit because it was told not to, nor had started it before."""
    return note.refused == "cancelled" and note.started_at is None


def of_refusal(note: Note, command: str, log_file: str) -> Outcome | None:
    """The verdict on a unit that was not started because of itself, or of its run."""
    if note.refused == "command":
        hint = "Hint: make sure that it is executable."
        return Outcome(Cause.INVALID_COMMAND, f'Command "{command}" is not valid. {hint}')
    if note.refused == "log":
        why = f": {note.said}" if note.said else ""
        return Outcome(Cause.LAUNCH_FAILED, f"Cannot write the log {log_file} on {note.host}{why}.")
    if was_given_up(note):
        return Outcome(Cause.CANCELLED, "The run that submitted it gave it up before it was started.")
    return None


def with_words(outcome: Outcome, words: str) -> Outcome:
    """A verdict with what its job printed, worker_init for instance, which may be why a unit failed."""
    return replace(outcome, info=f"{outcome.info} Its job printed: {words}") if words else outcome


def last_of(words: str) -> str:
    """As much of words as is told."""
    return words.strip()[-_MOST_WORDS:]


def _says(what: re.Pattern[str], words: str) -> bool:
    """Whether SLURM says so itself."""
    return any(what.search(line) for line in _OF_SLURM.findall(words))


def was_ended(end: End) -> bool:
    """Whether a command was killed, as far as its exit code tells."""
    return end.signal in (_KILL, _TERM) or end.exit_code in (_TIMED_OUT, 128 + _KILL, 128 + _TERM)


def _exited(note: Note, end: End) -> Outcome:
    outcome = Outcome.exited(-end.signal if end.signal else end.exit_code)
    return _measured(replace(outcome, info=f"It ran on {note.host}."), end)


def _measured(outcome: Outcome, end: End) -> Outcome:
    return replace(outcome, wall_s=end.wall_s, cpu_s=end.cpu_s, peak_mb=end.peak_mb)


def _out_of_memory(note: Note, end: End) -> str:
    went_on = "" if end.signal else f" The command itself ended with exit code {end.exit_code}."
    return f"The kernel ended {end.oom_kills} of its processes on {note.host} for want of memory.{went_on}"


def _story(state: JobState, note: Note | None) -> str:
    where = f" on {note.host}" if note else ""
    if state.state == FORGOTTEN:
        return f"SLURM's controller was started again, had forgotten what ran, and ended its job{where}."
    runs_unknown = note is not None and note.end is None and not state.nodes
    unknown = " It did not know that it ran, and may take minutes to end it." if runs_unknown else ""
    if state == WITHDRAWN:
        return f"SLURM has no record of its job{where}, which was cancelled while it waited.{unknown}"
    reason = f" ({state.reason})" if state.reason and state.reason != "None" else ""
    by = f" by {_user(state.cancelled_by)}" if state.cancelled_by is not None else ""
    code = f", exit code {state.exit_code}" if state.exit_code else ""
    return f"SLURM says {state.state}{by}{reason} of its job{where}{code}.{unknown}"


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user id {uid})"
    except KeyError:
        return f"the user with id {uid}"


def _said(words: str) -> str:
    text = last_of(words)
    return f" Its last words: {text}{'' if text.endswith('.') else '.'}" if text else ""
