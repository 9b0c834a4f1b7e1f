"""sinfo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import hostlist, records, times
from ..arguments import Grammar, Refused
from ..config import PartitionConfig
from ..controller import Controller
from ..nodes import Node
from ..sbatch_words import Caller
from .columns import FIELD, fill

GRAMMAR = Grammar(
    "sinfo",
    "format partition nodes states",
    "noheader Node exact version",
    "h=noheader N=Node o=format p=partition n=nodes t=states e=exact",
)
_FORMAT = "%9P %.5a %.10l %.6D %.6t %N"
_SHORT = {
    "idle": "idle",
    "mixed": "mix",
    "allocated": "alloc",
    "down": "down",
    "drained": "drain",
    "draining": "drng",
    "completing": "comp",
}
_HEADERS = {"P": "PARTITION", "a": "AVAIL", "l": "TIMELIMIT", "D": "NODES", "t": "STATE", "T": "STATE"}
_HEADERS |= {"N": "NODELIST", "c": "CPUS", "m": "MEMORY", "E": "REASON", "f": "AVAIL_FEATURES", "G": "GRES"}
_APART, _SIZES = "TtfGE", "cm"
"""Nodes that differ in these have lines of their own, where they are shown; in sizes only with --exact."""
_HEADERS |= {"L": "DEFAULTTIME", "X": "SOCKETS", "Y": "CORES", "R": "PARTITION", "C": "CPUS(A/I/O/T)"}
_OF_NO_NODE = {"t": "n/a", "T": "n/a", "N": "", "c": "0", "X": "0", "Y": "0", "m": "0", "C": "0/0/0/0"}
_OF_NO_NODE |= {"E": "none", "f": "(null)", "G": "(null)"}


def run(controller: Controller, caller: Caller, words: list[str]) -> tuple[str, str]:
    """Raises Refused."""
    options, _ = GRAMMAR.parse(words)
    if "version" in options:
        return "slurm-wlm 22.05.8\n", ""
    form = options.get("format", _FORMAT)
    lines = [] if "noheader" in options else [_fill(form, _HEADERS)]
    lines += [_fill(form, values) for values in _rows(controller, options, form)]
    return "".join(line + "\n" for line in lines), ""


def _rows(controller: Controller, options: dict[str, str], form: str) -> Iterator[dict[str, str]]:
    wanted = records.names(options.get("partition"))
    partitions = [
        partition
        for partition in controller.cluster.partitions.values()
        if wanted is None or partition.name in wanted
    ]
    states = _states(options.get("states", "all"))
    only = records.nodes("sinfo", "nodes", options["nodes"]) if "nodes" in options else None
    if "Node" in options:
        for node in (node for node in controller.cluster.nodes.values() if _is_wanted(node, states, only)):
            members = [item for item in partitions if node in controller.cluster.members(item)]
            yield from (_values(partition, [node]) for partition in members)
        return
    shown = {letter for _, _, letter in FIELD.findall(form)}
    apart = _APART + (_SIZES if "exact" in options else "")
    for partition in partitions:
        nodes = [node for node in controller.cluster.members(partition) if _is_wanted(node, states, only)]
        groups: dict[tuple[str, ...], list[Node]] = {}
        for node in nodes:
            values = _values(partition, [node])
            alike = tuple(values[letter] for letter in apart if letter in shown)
            groups.setdefault(alike, []).append(node)
        if not nodes and only is not None:
            yield _values(partition, [])
        yield from (_values(partition, group) for group in groups.values())


def _states(text: str) -> list[str]:
    """Raises Refused."""
    states = text.lower().split(",")
    for state in states:
        if state != "all" and not any(known.startswith(state) for known in _SHORT):
            raise Refused(f'sinfo: error: Bad state string: "{state}"\n')
    return states


def _is_wanted(node: Node, states: list[str], only: list[str] | None) -> bool:
    if only is not None and node.name not in only:
        return False
    return "all" in states or any(node.shown_state().startswith(state) for state in states)


def _values(partition: PartitionConfig, nodes: list[Node]) -> dict[str, str]:
    limit = partition.max_minutes
    values = {
        "P": partition.name + ("*" if partition.default else ""),
        "R": partition.name,
        "a": "up",
        "l": "infinite" if limit is None else times.span_short(limit * 60),
        "L": "n/a",
        "D": str(len(nodes)),
    }
    return values | (_values_of_nodes(nodes) if nodes else _OF_NO_NODE)


def _values_of_nodes(nodes: list[Node]) -> dict[str, str]:
    node = nodes[0]
    state = node.shown_state()
    total = sum(node.cpus for node in nodes)
    used = sum(node.allocated[0] for node in nodes)
    return {
        "t": _SHORT[state],
        "T": state,
        "N": hostlist.compress([node.name for node in nodes]),
        "c": _least(node.cpus for node in nodes),
        "X": _least(node.cpus for node in nodes),
        "Y": "1",
        "m": _least(node.memory for node in nodes),
        "E": node.reason or "none",
        "f": ",".join(node.features) or "(null)",
        "G": f"gpu:{node.gpus}" if node.gpus else "(null)",
        "C": f"{used}/{total - used}/0/{total}",
    }


def _least(sizes: Iterable[int]) -> str:
    least, *more = sorted(sizes)
    return f"{least}+" if more and more[-1] > least else str(least)


def _fill(form: str, values: dict[str, str]) -> str:
    def text_of(letter: str) -> str:
        if letter not in values:
            raise Refused(f"sinfo: error: Invalid node format specification: {letter}\n")
        return values[letter]

    return fill(form, text_of)
