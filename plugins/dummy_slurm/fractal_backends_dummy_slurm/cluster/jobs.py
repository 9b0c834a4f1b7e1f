"""What a controller knows of jobs, as data that can be written down."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

PENDING = "PENDING"
RUNNING = "RUNNING"
COMPLETING = "COMPLETING"
COMPLETED = "COMPLETED"
CANCELLED = "CANCELLED"
FAILED = "FAILED"
TIMEOUT = "TIMEOUT"
NODE_FAIL = "NODE_FAIL"
OUT_OF_MEMORY = "OUT_OF_MEMORY"
REQUEUED = "REQUEUED"

SHORT = {
    PENDING: "PD",
    RUNNING: "R",
    "SUSPENDED": "S",
    COMPLETED: "CD",
    CANCELLED: "CA",
    FAILED: "F",
    TIMEOUT: "TO",
    NODE_FAIL: "NF",
    "PREEMPTED": "PR",
    "BOOT_FAIL": "BF",
    "DEADLINE": "DL",
    OUT_OF_MEMORY: "OOM",
    COMPLETING: "CG",
    "CONFIGURING": "CF",
    "RESIZING": "RS",
    "RESV_DEL_HOLD": "RD",
    REQUEUED: "RQ",
    "REQUEUE_FED": "RF",
    "REQUEUE_HOLD": "RH",
    "REVOKED": "RV",
    "SIGNALING": "SI",
    "SPECIAL_EXIT": "SE",
    "STAGE_OUT": "SO",
    "STOPPED": "ST",
}
"""All states, and how `squeue %t` shows them."""


@dataclass
class Submission:
    """What one call of sbatch asked for. `waiting`: tasks of an array that are no jobs of their own yet."""

    id: int
    user: str
    uid: int
    gid: int
    name: str
    script: str
    """Where a copy of it is, in the controller's folder."""
    command: str | None
    workdir: str
    env: list[str]
    submitted: float
    comment: str | None = None
    account: str | None = None
    partition: str = ""
    """One, or several with commas: the first that can run the job does."""
    qos: str = "normal"
    stdout: str = ""
    stderr: str = ""
    append: bool = False
    requeue: bool = True
    kill_on_invalid_dep: bool = False
    export: str | None = None
    nodes: int = 1
    ntasks: int = 1
    cpus_per_task: int = 1
    min_cpus: int = 1
    """What each node must have, and gives."""
    named: bool = True
    """Whether the name is more than a stopgap."""
    cpus_asked: bool = False
    ntasks_asked: bool = False
    mem_mb: int | None = None
    """Of a node."""
    mem_per_cpu: int | None = None
    minutes: int | None = None
    begin: float | None = None
    held: str | None = None
    """The reason, if it is held."""
    dependency: str | None = None
    dependency_shown: str | None = None
    nodelist: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    features: str | None = None
    gpus: int = 0
    array: list[int] | None = None
    throttle: int = 0
    waiting: list[int] = field(default_factory=list)
    reason: str = "None"
    cancelled: list[int] | None = None
    """Of those that waited when all of them were cancelled."""
    cancelled_by: int | None = None
    ended: float | None = None

    @property
    def partitions(self) -> list[str]:
        """By name."""
        return self.partition.split(",")

    @property
    def cpus(self) -> int:
        """Of one node."""
        return max(self.cpus_per_task * -(-self.ntasks // max(1, self.nodes)), self.min_cpus)

    @property
    def all_cpus(self) -> int:
        """Of all nodes, as they are asked for."""
        return self.cpus_per_task * max(self.ntasks, self.nodes)

    @property
    def given_cpus(self) -> int:
        """Of all nodes, once they are given."""
        return max(self.all_cpus, self.min_cpus * self.nodes)

    @property
    def memory(self) -> int:
        """MB on one node; 0: all of it."""
        if self.mem_mb is not None:
            return self.mem_mb
        return (self.mem_per_cpu or 0) * self.cpus


@dataclass
class Job:
    """A job, or a task of an array that is a job of its own."""

    id: int
    array_id: int
    """The submission's."""
    index: int | None = None
    state: str = PENDING
    completing: bool = False
    reason: str = "None"
    nodes: list[str] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    code: int = 0
    signal: int = 0
    restarts: int = 0
    begin: float | None = None
    held: str | None = None
    cancelled_by: int | None = None
    partition: str = ""
    """Where it runs or ran, of those that were asked for."""
    spool: str = ""
    """The name of the folder of the run under way."""

    @property
    def name(self) -> str:
        """`12_3`, or `12`."""
        return str(self.id) if self.index is None else f"{self.array_id}_{self.index}"

    @property
    def shown_state(self) -> str:
        """As squeue shows it."""
        return COMPLETING if self.completing else self.state

    @property
    def is_over(self) -> bool:
        """Whether its state is an end."""
        return self.state not in (PENDING, RUNNING)


def as_dict(item: Submission | Job) -> dict[str, Any]:
    """To write down; what has its default value is left out."""
    result = {}
    for name, value in vars(item).items():
        spec = item.__dataclass_fields__[name]
        if spec.default is not dataclasses.MISSING and value == spec.default:
            continue
        result[name] = value
    return result
