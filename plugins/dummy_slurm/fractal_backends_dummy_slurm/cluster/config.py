"""What the cluster is, and its rules, from a JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from . import checks, hostlist
from .faults import FaultError, plan

_NAMES = re.compile(r"[^\s,\[\]]+(\[[\d,-]+\])?(,[^\s,\[\]]+(\[[\d,-]+\])?)*")
"""`n1`, `n[1-3]`, and several of these."""


class ConfigError(ValueError):
    """All that is wrong with a configuration."""


@dataclass
class NodeConfig:
    """Nodes of one kind."""

    name: str
    """One, or several: `n[1-4]`."""
    cpus: int = 8
    memory_mb: int = 16000
    features: list[str] = field(default_factory=list)
    gpus: int = 0


@dataclass
class PartitionConfig:
    """A partition."""

    name: str
    nodes: str
    """`n[1-4]`, or ALL."""
    default: bool = False
    max_minutes: int | None = None
    max_nodes: int | None = None


@dataclass
class UserLimits:
    """What a user may have at once."""

    max_jobs: int | None = None
    max_submit: int | None = None


def _nodes() -> list[NodeConfig]:
    return [NodeConfig("n[1-4]")]


def _partitions() -> list[PartitionConfig]:
    return [PartitionConfig("main", "ALL", True), PartitionConfig("small", "n1", max_minutes=5)]


@dataclass
class ClusterConfig:
    """Names with `_s` are seconds."""

    cluster_name: str = "dummy"
    nodes: list[NodeConfig] = field(default_factory=_nodes)
    partitions: list[PartitionConfig] = field(default_factory=_partitions)
    accounts: dict[str, list[str]] | None = None
    """Who may use which account ("*": everybody); a user's first is the default. None: any is accepted."""
    users: dict[str, UserLimits] = field(default_factory=dict)
    """Limits of users ("*": of those who are not listed)."""
    accounting: bool = True
    """Whether there is a database for sacct."""
    accounting_lag_s: float = 0.0
    """How late sacct knows of what happens."""
    memory_kill: str = "poll"
    """poll: the whole job is killed; cgroup: the biggest process is, of which its script, other than from a
    kernel, learns nothing; none: nobody looks."""
    memory_interval_s: float = 0.1
    """How often memory is looked at."""
    def_mem_per_cpu: int = 100
    """MB of a job that does not ask."""
    first_job_id: int | None = None
    """None: some number."""
    max_array_size: int = 1001
    max_job_count: int = 10000
    min_job_age_s: float = 300.0
    """How long a record stays after its job ended."""
    kill_wait_s: float = 2.0
    """Between SIGTERM and SIGKILL."""
    minute_s: float = 60.0
    """How long a minute of a time limit takes; less makes tests quick."""
    requeue_delay_s: float = 120.0
    """How long a job that was requeued waits."""
    start_delay_s: float = 0.0
    """Between a job's submission and its start at the earliest."""
    contact_s: float = 9.0
    """How long commands try to reach a controller that is down, and wait for one that does not answer."""
    linger_s: float = 2.0
    """How long a controller that nobody uses stays."""
    shared: bool | None = None
    """Whether other users of the machine may use it too. None: if it runs as root."""
    keep: bool = False
    """Whether its log and its journal stay when it ends."""
    faults: dict[str, Any] = field(default_factory=dict)
    """How it misbehaves: see `faults`."""

    @property
    def is_shared(self) -> bool:
        """Whether other users may use it."""
        return os.geteuid() == 0 if self.shared is None else self.shared

    def node_names(self) -> list[str]:
        """All nodes."""
        return [name for node in self.nodes for name in hostlist.expand(node.name)]

    def partition_nodes(self, partition: PartitionConfig) -> list[str]:
        """A partition's nodes."""
        return self.node_names() if partition.nodes == "ALL" else hostlist.expand(partition.nodes)

    def limits_of(self, user: str) -> UserLimits:
        """A user's limits."""
        return self.users.get(user) or self.users.get("*") or UserLimits()

    def accounts_of(self, user: str) -> list[str] | None:
        """The accounts that a user may use; None: any."""
        if self.accounts is None:
            return None
        return [name for name, users in self.accounts.items() if "*" in users or user in users]


_NESTED: dict[str, type[NodeConfig] | type[PartitionConfig]] = {
    "nodes": NodeConfig,
    "partitions": PartitionConfig,
}


def read(path: str) -> dict[str, Any]:
    """The settings in a file. Raises ConfigError that names the file, and all that is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from None
    try:
        parse(values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None
    assert isinstance(values, dict)
    return values


def parse(values: Any) -> ClusterConfig:
    """Raises ConfigError that names all that is wrong."""
    wrong: list[str] = []
    config = _make(ClusterConfig, values, "the configuration", wrong)
    nested = _make_nested(values, wrong) if isinstance(values, dict) else {}
    if config is not None and not wrong:
        for name, made in nested.items():
            setattr(config, name, made)
        wrong += _cross_check(config)
    if wrong:
        raise ConfigError("\n".join(wrong))
    assert isinstance(config, ClusterConfig)
    return config


def _make_nested(values: dict[str, Any], wrong: list[str]) -> dict[str, Any]:
    """What is made of the parts; those that are no lists or objects at all are told elsewhere."""
    made: dict[str, Any] = {}
    for name, kind in _NESTED.items():
        if isinstance(values.get(name), list):
            made[name] = [_make(kind, item, name, wrong) for item in values[name]]
    if isinstance(users := values.get("users"), dict):
        made["users"] = {user: _make(UserLimits, item, "users", wrong) for user, item in users.items()}
    if isinstance(faults := values.get("faults"), dict):
        wrong += _faults(faults)
    kill = values.get("memory_kill", "none")
    if isinstance(kill, str) and kill not in ("cgroup", "poll", "none"):
        wrong.append(f"memory_kill is one of cgroup, poll, none; not {kill!r}.")
    return made


def _make(kind: type[Any], values: Any, where: str, wrong: list[str]) -> Any:
    """None if something is wrong with it."""
    known = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        wrong.append(f"In {where}: expected an object, not {values!r}.")
        return None
    unknown = [name for name in values if name not in known]
    found = [f"unknown {', '.join(unknown)}. Known: {', '.join(known)}"] if unknown else []
    problems = (checks.problem(name, value, known[name]) for name, value in values.items() if name in known)
    found += [problem for problem in problems if problem is not None]
    found += [f"{name} is missing" for name in _needed(kind) if name not in values]
    wrong += [f"In {where}: {problem}." for problem in found]
    return None if found else kind(**values)


def _needed(kind: type[Any]) -> list[str]:
    missing = dataclasses.MISSING
    return [
        item.name
        for item in dataclasses.fields(kind)
        if item.default is missing and item.default_factory is missing
    ]


def _faults(values: dict[str, Any]) -> list[str]:
    try:
        plan(values)
    except FaultError as error:
        return [f"In faults: {line}" for line in str(error).splitlines()]
    return []


def _cross_check(config: ClusterConfig) -> list[str]:
    wrong = []
    if not re.fullmatch(r"[\w-]+", config.cluster_name):
        wrong.append(f"cluster_name is made of letters, digits, `-` and `_`; not {config.cluster_name!r}.")
    if sum(partition.default for partition in config.partitions) != 1:
        wrong.append("Exactly one partition must be the default one.")
    wrong += _partition_names([partition.name for partition in config.partitions])
    try:
        return wrong + _check_names(config)
    except ValueError:
        return [*wrong, "Names of nodes are like `n1`, or `n[1-4]` for up to 65536 of them."]


def _partition_names(names: list[str]) -> list[str]:
    odd = [name for name in names if not re.fullmatch(r"[\w.-]+", name)]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return [
        *(
            f"Names of partitions are made of letters, digits, `-`, `_` and `.`; not {name!r}."
            for name in odd
        ),
        *(f"Two partitions have the name {name!r}; each needs its own." for name in twice),
    ]


def _check_names(config: ClusterConfig) -> list[str]:
    """Raises ValueError where they cannot be read."""
    for node in config.nodes:
        if not _NAMES.fullmatch(node.name):
            raise ValueError(node.name)
    nodes = config.node_names()
    wrong = [] if nodes else ["There is no node."]
    if len(set(nodes)) < len(nodes):
        wrong.append("Two nodes have one name.")
    for partition in config.partitions:
        unknown = set(config.partition_nodes(partition)) - set(nodes)
        if unknown:
            wrong.append(f"Partition {partition.name} has unknown nodes: {hostlist.compress(list(unknown))}.")
    return wrong
