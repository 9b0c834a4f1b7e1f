"""Nodes, and where a job fits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import hostlist
from .config import ClusterConfig, PartitionConfig
from .jobs import Submission


@dataclass
class Node:
    """A pretend node, and what of it is in use."""

    name: str
    cpus: int
    memory: int
    features: list[str]
    gpus: int
    state: str = "UP"
    """UP, DOWN or DRAIN."""
    reason: str = ""
    since: float = 0.0
    back_at: float | None = None
    """When it comes back by itself."""
    used: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Of each run of a job: cpus, MB, gpus."""
    completing: set[str] = field(default_factory=set)

    def free(self) -> tuple[int, int, int]:
        """Cpus, MB and gpus that are free."""
        cpus, memory, gpus = (
            (sum(column) for column in zip(*self.used.values(), strict=True)) if self.used else (0, 0, 0)
        )
        return self.cpus - cpus, self.memory - memory, self.gpus - gpus

    @property
    def allocated(self) -> tuple[int, int]:
        """Cpus and MB in use."""
        cpus, memory, _ = self.free()
        return self.cpus - cpus, self.memory - memory

    def shown_state(self) -> str:
        """As `sinfo %T` shows it."""
        if self.state == "DOWN":
            return "down"
        if self.state == "DRAIN":
            return "draining" if self.used else "drained"
        if self.used and set(self.used) <= self.completing:
            return "completing"
        if not self.used:
            return "idle"
        return "allocated" if self.free()[0] == 0 else "mixed"

    def long_state(self) -> str:
        """As `scontrol show node` shows it."""
        base = "IDLE" if not self.used else "ALLOCATED" if self.free()[0] == 0 else "MIXED"
        return {"DOWN": "DOWN", "DRAIN": base + "+DRAIN"}.get(self.state, base)


class Cluster:
    """All nodes and partitions."""

    def __init__(self, config: ClusterConfig) -> None:
        self.partitions = {partition.name: partition for partition in config.partitions}
        self.nodes: dict[str, Node] = {}
        for kind in config.nodes:
            for name in hostlist.expand(kind.name):
                self.nodes[name] = Node(name, kind.cpus, kind.memory_mb, kind.features, kind.gpus)
        self._members = {
            partition.name: [self.nodes[name] for name in config.partition_nodes(partition)]
            for partition in config.partitions
        }

    def members(self, partition: PartitionConfig | str) -> list[Node]:
        """A partition's nodes."""
        return self._members[partition if isinstance(partition, str) else partition.name]

    def outgrows(self, asked: Submission, partition: str) -> bool:
        """Whether it wants more cpus than a whole partition has, for which sbatch does not refuse it."""
        return asked.all_cpus > sum(node.cpus for node in self.members(partition))

    def unsatisfiable(self, asked: Submission) -> str | None:
        """Why no partition's nodes would do, were they empty, as sbatch says it before its other words."""
        names = [name for name in asked.partitions if not self.outgrows(asked, name)]
        problems = [self._unsatisfiable(asked, name) for name in names]
        return None if None in problems or not problems else problems[-1]

    def fitting(self, asked: Submission) -> tuple[str, list[str]] | None:
        """The first partition, and the nodes of it, that would do if all that are up were empty."""
        for name in asked.partitions:
            nodes = [node.name for node in self._able(asked, name) if node.state == "UP"]
            if len(nodes) >= asked.nodes and not self.outgrows(asked, name):
                return name, nodes[: asked.nodes]
        return None

    def _unsatisfiable(self, asked: Submission, partition: str) -> str | None:
        nodes = self._candidates(asked, partition)
        if not any(node.cpus >= asked.min_cpus for node in nodes):
            return "sbatch: error: CPU count per node can not be satisfied\n"
        if not any(node.memory >= asked.memory for node in nodes):
            return "sbatch: error: Memory specification can not be satisfied\n"
        needed = min(asked.nodes, len(self.members(partition)))
        return "" if len(self._able(asked, partition)) < needed else None

    def able(self, asked: Submission, partition: str) -> list[str]:
        """The nodes that are big enough."""
        return [node.name for node in self._able(asked, partition)]

    def _able(self, asked: Submission, partition: str) -> list[Node]:
        return [
            node
            for node in self._candidates(asked, partition)
            if (not asked.nodelist or node.name in asked.nodelist)
            and _fits(asked, (node.cpus, node.memory, node.gpus))
        ]

    def place(
        self, asked: Submission, partition: str, key: str, reserved: set[str]
    ) -> tuple[list[Node], str]:
        """A partition's nodes where the job can start now, the first that fit; else why there are none.

        `reserved`: nodes that others wait for.
        """
        up = [node for node in self._able(asked, partition) if node.state == "UP"]
        if len(up) < asked.nodes:
            away = hostlist.compress([node.name for node in self.nodes.values() if node.state != "UP"])
            return [], f"ReqNodeNotAvail, UnavailableNodes:{away}"
        free = [node for node in up if node.name not in reserved and _fits(asked, node.free())]
        if len(free) < asked.nodes:
            waits = any(node.name in reserved for node in up)
            return [], "Priority" if waits else "Resources"
        chosen = free[: asked.nodes]
        for node in chosen:
            memory = asked.memory or node.free()[1]
            node.used[key] = (asked.cpus, memory, asked.gpus)
        return chosen, ""

    def _candidates(self, asked: Submission, partition: str) -> list[Node]:
        return [
            node
            for node in self.members(partition)
            if node.name not in asked.exclude and _has_features(node, asked.features)
        ]

    def release(self, key: str, names: list[str]) -> None:
        """What a run used is free again."""
        for name in names:
            self.nodes[name].used.pop(key, None)
            self.nodes[name].completing.discard(key)


def alternatives(features: str) -> list[set[str]]:
    """What `--constraint` asks for: all of one of these sets. How many nodes of each kind is left out."""
    plain = re.sub(r"[\[\]()]|\*\d+", "", features)
    return [set(together.split("&")) for together in plain.split("|")]


def _has_features(node: Node, asked: str | None) -> bool:
    return not asked or any(together <= set(node.features) for together in alternatives(asked))


def _fits(asked: Submission, free: tuple[int, int, int]) -> bool:
    cpus, memory, gpus = free
    enough_memory = memory >= asked.memory if asked.memory else memory > 0
    return cpus >= asked.cpus and enough_memory and gpus >= asked.gpus
