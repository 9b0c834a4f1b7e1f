"""What a lab can be told, and the configuration files that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
DATABASE = "slurm_acct_db"
PASSWORD = "slurm-lab"
"""Of a database that only this machine reaches."""


class MemoryKill(StrEnum):
    """Who ends a job that takes more memory than it asked for."""

    CGROUP = "cgroup"
    """The kernel, at once."""
    POLL = "poll"
    """SLURM, which looks every second (OverMemoryKill)."""
    NONE = "none"


def cgroups_work() -> bool:
    """Whether SLURM 22.05 can use the control groups of this machine (version 1, and no systemd)."""
    return all((CGROUPS / name / "cgroup.procs").exists() for name in ("memory", "freezer"))


def _default_kill() -> MemoryKill:
    return MemoryKill.CGROUP if cgroups_work() else MemoryKill.POLL


@dataclass(frozen=True)
class Settings:
    """A SLURM that is quick: it starts jobs within 0.3 s, and misses a dead node within seconds."""

    nodes: int = 4
    cpus: int = 8
    """Of each node, as SLURM counts them; no core is bound."""
    memory_mb: int = 16_000
    """Of each node, as SLURM counts it."""
    cpus_of_last: int | None = None
    """Of the last node, where it is of another kind."""
    accounting: bool = False
    """With slurmdbd and a database of its own: accounts are checked, and `sacct` works."""
    memory_kill: MemoryKill = field(default_factory=_default_kill)
    slurmd_timeout_s: int = 10
    message_timeout_s: int = 10
    credential_s: int = 120
    """A requeued job waits for as long."""
    min_job_age_s: int = 300
    """For how long the controller knows jobs that ended."""
    accounts: tuple[str, ...] = ("lab",)
    lines: Mapping[str, str] = field(default_factory=dict)
    """Whatever else slurm.conf shall say; replaces what is said there otherwise."""


@dataclass(frozen=True)
class Place:
    """What is a lab's own on this machine: a folder, a number, and by that number names and ports."""

    folder: Path
    number: int

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return f"lab{self.number}"

    @property
    def ports(self) -> range:
        """Those that are the lab's, below the ones that the system gives to anybody."""
        first = 18_000 + 50 * self.number
        return range(first, first + 50)

    @property
    def database_port(self) -> int:
        """MariaDB's."""
        return self.ports[1]

    @property
    def slurmdbd_port(self) -> int:
        """Of the accounting daemon."""
        return self.ports[2]

    def node(self, index: int) -> str:
        """A node's name, from 1 on. Control groups are named after nodes: no two labs may have the same."""
        return f"lab{self.number}n{index}"


def slurm_conf(place: Place, settings: Settings, changes: Mapping[str, str]) -> str:
    """The text of slurm.conf."""
    folder = place.folder
    values = {
        "ClusterName": place.cluster,
        "SlurmctldHost": "localhost",
        "SlurmctldPort": str(place.ports[0]),
        "SlurmUser": "slurm",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"cred_expire={settings.credential_s}",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd-%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides",  # nodes are as large as they say, not as this machine
        "DefMemPerCPU": "100",
        "GresTypes": "gpu",
        "ReturnToService": "2",
        "SlurmdTimeout": str(settings.slurmd_timeout_s),
        "SlurmctldTimeout": "10",
        "MessageTimeout": str(settings.message_timeout_s),
        "BatchStartTimeout": "10",
        "KillWait": "2",
        "InactiveLimit": "0",
        "MinJobAge": str(settings.min_job_age_s),
        "JobRequeue": "1",
        "MaxArraySize": "1001",
        "MaxJobCount": "10000",
        "PriorityType": "priority/basic",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
        **_memory_lines(settings.memory_kill),
        **_accounting_lines(place, settings.accounting),
        **settings.lines,
        **changes,
    }
    return "\n".join([*(f"{name}={value}" for name, value in values.items()), *_nodes(place, settings), ""])


def _memory_lines(kill: MemoryKill) -> dict[str, str]:
    kill = MemoryKill(kill)  # Python takes its value, too
    kernel = kill is MemoryKill.CGROUP
    lines = {
        "ProctrackType": "proctrack/cgroup" if kernel else "proctrack/linuxproc",
        "TaskPlugin": "task/cgroup" if kernel else "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
    }
    return lines | ({"JobAcctGatherParams": "OverMemoryKill"} if kill is MemoryKill.POLL else {})


def _accounting_lines(place: Place, accounting: bool) -> dict[str, str]:
    if not accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "localhost",
        "AccountingStoragePort": str(place.slurmdbd_port),
        "AccountingStorageEnforce": "associations,limits",
    }


def _nodes(place: Place, settings: Settings) -> list[str]:
    """Partition `main` has all nodes, `small` the first for five minutes at most. The last node has GPUs."""
    nodes = []
    for index in range(1, settings.nodes + 1):
        is_last = index == settings.nodes
        cpus = (is_last and settings.cpus_of_last) or settings.cpus
        kind = "Gres=gpu:2 Feature=gpu" if is_last else "Feature=plain"
        size = f"NodeHostname=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={settings.memory_mb} {kind}"
        nodes.append(f"NodeName={place.node(index)} Port={place.ports[index + 2]} {size} State=UNKNOWN")
    return [
        *nodes,
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        f"PartitionName=small Nodes={place.node(1)} Default=NO MaxTime=5 State=UP",
    ]


def gres_conf(place: Place, settings: Settings) -> str:
    """The text of gres.conf: GPUs that exist on paper only."""
    node = place.node(settings.nodes)
    return "".join(f"NodeName={node} Name=gpu File={file}\n" for file in ("/dev/null", "/dev/zero"))


CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={CGROUPS}
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
AllowedSwapSpace=0
"""


def slurmdbd_conf(place: Place) -> str:
    """The text of slurmdbd.conf."""
    return f"""\
DbdHost=localhost
DbdPort={place.slurmdbd_port}
SlurmUser=slurm
AuthType=auth/munge
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={place.database_port}
StorageUser=slurm
StoragePass={PASSWORD}
StorageLoc={DATABASE}
LogFile={place.folder}/log/slurmdbd.log
PidFile={place.folder}/run/slurmdbd.pid
"""


def my_cnf(place: Place) -> str:
    """The text of MariaDB's configuration: small, and quick rather than safe."""
    folder = place.folder
    return f"""\
[mariadbd]
datadir={folder}/mysql
socket={folder}/mysql/mysql.sock
pid-file={folder}/mysql/mysql.pid
log-error={folder}/mysql/mysql.log
bind-address=127.0.0.1
port={place.database_port}
skip-name-resolve
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
"""
