"""From the outcomes of units to the one error that the caller sees."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import JobExecutionError, TaskExecutionError, read_end
from ..interface import Cause, Outcome, Unit
from ..models import WorkflowTask

LOG_END_BYTES = 8_000
_ALL_NAMED = 50
"""Up to so many failed units are named one by one, beyond that runs of them as ranges."""


@dataclass(frozen=True)
class Failure:
    """A unit that did not succeed."""

    unit: Unit
    outcome: Outcome


def failure_error(
    failures: Sequence[Failure], units: int, order: int, workflow_task: WorkflowTask, and_also: str | None
) -> TaskExecutionError | JobExecutionError:
    """The error of the first failure in unit order, which tells of all the others.

    `and_also` is what went wrong when the outputs of the other units were merged.
    """
    first = failures[0]
    name = workflow_task.task.name
    rest = [
        f"Task {order} {name!r}: {len(failures)} of {units} units failed: {_names(failures)}",
        f"Log: {first.unit.log_file}",
    ]
    if and_also:
        rest.append(f"Besides, the outputs of the other units could not be used: {and_also}")
    if first.outcome.cause in (Cause.TASK_ERROR, Cause.INVALID_COMMAND):
        return TaskExecutionError(
            "\n".join([_headline(first), *_log_end(first), *rest]),
            workflow_task_id=workflow_task.id,
            workflow_task_order=order,
            task_name=name,
        )
    return JobExecutionError(
        "\n".join([_headline(first), *rest, *_log_end(first)]),
        cmd_file=first.unit.args_file,
        stdout_file=first.unit.log_file,
        stderr_file=first.unit.log_file,
    )


def describe_failure(failure: Failure) -> str:
    """One line on what happened to a unit."""
    label = failure.unit.label
    return f"Unit {label}: {_headline(failure).splitlines()[0].removeprefix(f'Unit {label} ')}"


def _headline(failure: Failure) -> str:
    outcome, label = failure.outcome, failure.unit.label
    match outcome.cause:
        case Cause.INVALID_COMMAND | Cause.INVALID_OUTPUT:
            return outcome.info
        case Cause.TASK_ERROR:
            return f"Unit {label} ended with exit code {outcome.exit_code}. {outcome.info}".rstrip()
        case Cause.KILLED if outcome.signal is not None:
            how = f"returncode=-{outcome.signal} ({_signal(outcome)})"
            return f"Task failed with {how}, unit {label}. {outcome.info}".rstrip()
        case cause:
            return f"Unit {label} did not succeed: {cause}. {outcome.info}".rstrip()


def _signal(outcome: Outcome) -> str:
    try:
        name = signal.Signals(outcome.signal or 0).name
    except ValueError:
        name = f"signal {outcome.signal}"
    if outcome.signal == signal.SIGKILL:
        peak = f", its peak memory was {outcome.peak_mb:,.0f} MB" if outcome.peak_mb else ""
        return f"{name}: ended from outside, often by the system when memory runs out{peak}"
    return name


def _log_end(failure: Failure) -> list[str]:
    if failure.outcome.cause is Cause.INVALID_COMMAND:
        return []
    try:
        text = read_end(Path(failure.unit.log_file), LOG_END_BYTES).rstrip()
    except OSError:
        return ["It left no log."]
    return [f"Its log:\n{text}"] if text else ["Its log is empty."]


def _names(failures: Sequence[Failure]) -> str:
    if len(failures) <= _ALL_NAMED:
        return ", ".join(failure.unit.label for failure in failures)
    ranges: list[list[Unit]] = []
    for failure in failures:
        last = ranges[-1][-1].component if ranges else None
        if last is not None and failure.unit.component == last + 1:
            ranges[-1][1:] = [failure.unit]
        else:
            ranges.append([failure.unit])
    return ", ".join(" to ".join(unit.label for unit in ends) for ends in ranges)
