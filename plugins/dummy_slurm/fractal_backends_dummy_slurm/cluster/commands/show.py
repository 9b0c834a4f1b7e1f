"""What `scontrol show` shows."""

from __future__ import annotations

import re
import time

from .. import hostlist, records, times
from ..arguments import Refused
from ..controller import Controller
from ..jobs import RUNNING
from ..nodes import Node
from ..records import Record

_ID = re.compile(r"(\d+)(?:_(\d*)(?:_\d*)?|(\+\d+))?", re.ASCII)
_Lines = list[list[str]]


def _text(items: list[_Lines], oneliner: bool) -> str:
    """Each item is lines of words."""
    if oneliner:
        return "".join(" ".join(" ".join(line) for line in item) + "\n" for item in items)
    return "".join("\n   ".join(" ".join(line) for line in item) + "\n\n" for item in items)


def jobs(controller: Controller, which: str | None, oneliner: bool) -> str:
    """All, or one. Raises Refused."""
    if which is None:
        found = list(records.every(controller))
    else:
        match = _ID.fullmatch(which)
        if match is None:
            raise Refused("scontrol_print_job error: Invalid job id specified\n")
        number, task, other = match.groups()
        if task is not None:
            which = f"{number}_{task or 0}"
        found = records.by_id(controller, which) if other is None else []
        if not found and records.by_id(controller, number):
            raise Refused("", 1, f"Job {which} not found\n")
        if not found:
            raise Refused("slurm_load_jobs error: Invalid job id specified\n")
    return _text([_job(controller, record) for record in found], oneliner)


def _array_words(record: Record) -> list[str]:
    if not record.is_array:
        return []
    index = "4294967294" if record.index == "N/A" else record.index
    words = [f"ArrayJobId={record.submission.id}", f"ArrayTaskId={index}"]
    if record.submission.throttle:
        words.append(f"ArrayTaskThrottle={record.submission.throttle}")
    return words


def _job(controller: Controller, record: Record) -> _Lines:
    asked, job = record.submission, record.job
    held = (job.held if job else asked.held) is not None
    lines = [
        [f"JobId={record.id}", *_array_words(record), f"JobName={asked.name}"],
        [f"UserId={asked.user}({asked.uid})", f"GroupId={asked.gid}({asked.gid})", "MCS_label=N/A"],
        [f"Priority={0 if held else 4294901760 - asked.id}", "Nice=0", f"Account={asked.account or '(null)'}",
         f"QOS={asked.qos}"],
        [f"JobState={record.shown_state}", f"Reason={record.reason.replace(' ', '_')}",
         f"Dependency={asked.dependency_shown or '(null)'}"],
        [f"Requeue={int(asked.requeue)}", f"Restarts={job.restarts if job else 0}", "BatchFlag=1", "Reboot=0",
         f"ExitCode={job.code if job else 0}:{job.signal if job else 0}"],
        *_job_times(record),
        [f"Partition={record.partition}", "AllocNode:Sid=localhost:1"],
        [f"ReqNodeList={hostlist.compress(asked.nodelist) or '(null)'}",
         f"ExcNodeList={hostlist.compress(asked.exclude) or '(null)'}"],
        [f"NodeList={record.nodes}"],
    ]  # fmt: skip
    if job is not None and job.nodes:
        lines.append([f"BatchHost={job.nodes[0]}"])
    return lines + _job_sizes(record) + _job_files(controller, record)


def _job_times(record: Record) -> _Lines:
    asked, job = record.submission, record.job
    run_s = 0.0
    end = record.ended
    if job is not None and job.started is not None:
        run_s = (job.ended or time.time()) - job.started if job.nodes else 0.0
        if job.state == RUNNING and asked.minutes is not None:
            end = job.started + asked.minutes * 60
    started = record.started if record.started is not None else job.begin if job is not None else asked.begin
    return [
        [f"RunTime={times.span_long(run_s)}", f"TimeLimit={times.limit_long(asked.minutes)}", "TimeMin=N/A"],
        [f"SubmitTime={times.point(asked.submitted)}", f"EligibleTime={times.point(asked.submitted)}"],
        [f"AccrueTime={times.point(asked.submitted)}"],
        [f"StartTime={times.point(started)}", f"EndTime={times.point(end)}", "Deadline=N/A"],
        [
            "SuspendTime=None",
            "SecsPreSuspend=0",
            f"LastSchedEval={times.point(time.time())}",
            "Scheduler=Main",
        ],
    ]


def _job_sizes(record: Record) -> _Lines:
    asked = record.submission
    memory = f"{asked.memory}M"
    per_cpu = asked.mem_mb is None
    size = asked.mem_per_cpu if per_cpu else asked.mem_mb
    return [
        [f"NumNodes={asked.nodes}", f"NumCPUs={record.cpus}", f"NumTasks={asked.ntasks}",
         f"CPUs/Task={asked.cpus_per_task}", "ReqB:S:C:T=0:0:*:*"],
        [f"TRES=cpu={record.cpus},mem={memory},node={asked.nodes},billing={record.cpus}"],
        ["Socks/Node=*", "NtasksPerN:B:S:C=0:0:*:*", "CoreSpec=*"],
        [f"MinCPUsNode={asked.min_cpus}", f"MinMemory{'CPU' if per_cpu else 'Node'}={size}M",
         "MinTmpDiskNode=0"],
        [f"Features={asked.features or '(null)'}", "DelayBoot=00:00:00"],
        ["OverSubscribe=OK", "Contiguous=0", "Licenses=(null)", "Network=(null)"],
    ]  # fmt: skip


def _job_files(controller: Controller, record: Record) -> _Lines:
    asked = record.submission
    job = record.job

    def name(pattern: str) -> str:
        return pattern if job is None else controller.file_name(pattern, job, asked)

    lines = [[f"Command={asked.command or '(null)'}"], [f"WorkDir={asked.workdir}"]]
    if asked.comment is not None:
        lines.append([f"Comment={asked.comment} "])
    lines += [
        [f"StdErr={name(asked.stderr)}"],
        ["StdIn=/dev/null"],
        [f"StdOut={name(asked.stdout)}"],
        ["Power="],
    ]
    if asked.kill_on_invalid_dep:
        lines.append(["KillOInInvalidDependent=Yes"])
    return lines


def partitions(controller: Controller, which: str | None, oneliner: bool) -> str:
    """All, or one. Raises Refused."""
    found = [item for item in controller.cluster.partitions.values() if which in (None, item.name)]
    if not found:
        raise Refused("", 1, f"Partition {which} not found\n")
    items: list[_Lines] = []
    for partition in found:
        nodes = controller.cluster.members(partition)
        cpus = sum(node.cpus for node in nodes)
        memory = sum(node.memory for node in nodes)
        limit = "UNLIMITED" if partition.max_minutes is None else times.span_long(partition.max_minutes * 60)
        items.append([
            [f"PartitionName={partition.name}"],
            ["AllowGroups=ALL", "AllowAccounts=ALL", "AllowQos=ALL"],
            ["AllocNodes=ALL", f"Default={'YES' if partition.default else 'NO'}", "QoS=N/A"],
            ["DefaultTime=NONE", "DisableRootJobs=NO", "ExclusiveUser=NO", "GraceTime=0", "Hidden=NO"],
            [f"MaxNodes={partition.max_nodes or 'UNLIMITED'}", f"MaxTime={limit}", "MinNodes=0", "LLN=NO",
             "MaxCPUsPerNode=UNLIMITED"],
            [f"Nodes={hostlist.compress([node.name for node in nodes])}"],
            ["PriorityJobFactor=1", "PriorityTier=1", "RootOnly=NO", "ReqResv=NO", "OverSubscribe=NO"],
            ["OverTimeLimit=NONE", "PreemptMode=OFF"],
            ["State=UP", f"TotalCPUs={cpus}", f"TotalNodes={len(nodes)}", "SelectTypeParameters=NONE"],
            ["JobDefaults=(null)"],
            ["DefMemPerNode=UNLIMITED", "MaxMemPerNode=UNLIMITED"],
            [f"TRES=cpu={cpus},mem={_tres_memory(memory)},node={len(nodes)},billing={cpus}"],
        ])  # fmt: skip
    return _text(items, oneliner)


def _tres_memory(megabytes: int) -> str:
    return f"{megabytes / 1024:.2f}G" if megabytes >= 32 * 1024 else f"{megabytes}M"


def nodes(controller: Controller, which: str | None, oneliner: bool) -> str:
    """All, or some. Raises Refused."""
    try:
        wanted = None if which is None else hostlist.expand(which)
    except ValueError as error:
        raise Refused(f"scontrol: error: {error}\nunable to parse node list {which}\n") from None
    for name in wanted or ():
        if name not in controller.cluster.nodes:
            raise Refused("", 1, f"Node {name} not found\n")
    chosen = [node for node in controller.cluster.nodes.values() if wanted is None or node.name in wanted]
    return _text([_node(controller, node) for node in chosen], oneliner)


def _node(controller: Controller, node: Node) -> _Lines:
    cpus, memory = node.allocated
    cluster = controller.cluster
    members = [name for name, part in cluster.partitions.items() if node in cluster.members(part)]
    item = [
        [f"NodeName={node.name}", "Arch=x86_64", "CoresPerSocket=1", ""],
        [f"CPUAlloc={cpus}", f"CPUEfctv={node.cpus}", f"CPUTot={node.cpus}", "CPULoad=0.00"],
        [f"AvailableFeatures={','.join(node.features) or '(null)'}"],
        [f"ActiveFeatures={','.join(node.features) or '(null)'}"],
        [f"Gres={f'gpu:{node.gpus}' if node.gpus else '(null)'}"],
        ["NodeAddr=127.0.0.1", "NodeHostName=localhost", "Version=22.05.8"],
        [f"RealMemory={node.memory}", f"AllocMem={memory}", f"Sockets={node.cpus}", "Boards=1"],
        [
            f"State={node.long_state()}",
            "ThreadsPerCore=1",
            "TmpDisk=0",
            "Weight=1",
            "Owner=N/A",
            "MCS_label=N/A",
        ],
        [f"Partitions={','.join(members)}", ""],
        [f"CfgTRES=cpu={node.cpus},mem={node.memory}M,billing={node.cpus}"],
        [f"AllocTRES={f'cpu={cpus},mem={memory}M' if cpus else ''}"],
    ]
    if node.reason:
        item.append([f"Reason={node.reason} [{controller.owner_name}@{times.point(node.since)}]"])
    return item


def config(controller: Controller) -> str:
    """The configuration."""
    rules = controller.config
    kind = "accounting_storage/slurmdbd" if rules.accounting else "accounting_storage/none"
    values = {
        "AccountingStorageType": kind,
        "BOOT_TIME": times.point(controller.booted),
        "ClusterName": rules.cluster_name,
        "DefMemPerCPU": str(rules.def_mem_per_cpu),
        "EnforcePartLimits": "NO",
        "FirstJobId": "1",
        "JobAcctGatherParams": "OverMemoryKill" if rules.memory_kill == "poll" else "(null)",
        "JobRequeue": "1",
        "KillWait": f"{rules.kill_wait_s:g} sec",
        "MaxArraySize": str(rules.max_array_size),
        "MaxJobCount": str(rules.max_job_count),
        "MaxJobId": "67043328",
        "MessageTimeout": f"{rules.contact_s:g} sec",
        "MinJobAge": f"{rules.min_job_age_s:g} sec",
        "NEXT_JOB_ID": str(controller.next_id),
        "PriorityType": "priority/basic",
        "SchedulerType": "sched/builtin",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CORE_MEMORY",
        "SlurmctldHost[0]": "localhost",
        "SLURM_VERSION": "22.05.8",
        "StateSaveLocation": controller.folder,
        "TaskPlugin": "task/cgroup" if rules.memory_kill == "cgroup" else "task/none",
    }
    lines = [f"{name:<23} = {value}\n" for name, value in values.items()]
    now = times.point(time.time())
    return f"Configuration data as of {now}\n{''.join(lines)}\nSlurmctld(primary) at localhost is UP\n"
