"""The environment of a job."""

from __future__ import annotations

from . import hostlist
from .jobs import Job, Submission
from .launch import login_env


def of_job(job: Job, asked: Submission, cluster_name: str, commands: str, stepd: str) -> list[str]:
    """As SLURM makes it; and where the commands of this cluster are, which SLURM's are by being installed."""
    env = _exported(asked)
    env |= _about(job, asked, cluster_name)
    path = env.get("PATH", "/usr/bin:/bin")
    env["PATH"] = path if path.split(":")[0] == commands else f"{commands}:{path}"
    env["DUMMY_SLURM_STEPD"] = stepd
    return [f"{name}={value}" for name, value in env.items()]


def _exported(asked: Submission) -> dict[str, str]:
    full = dict(item.split("=", 1) for item in asked.env if "=" in item)
    full = {name: value for name, value in full.items() if not name.startswith("SLURM_JOB")}
    export = asked.export
    if export is None or export.upper() == "ALL":
        return full
    parts = export.split(",")
    if "ALL" in (part.upper() for part in parts):
        env = full
    else:
        env = login_env(asked.user) | {"SLURM_GET_USER_ENV": "1"}
        env |= {name: value for name, value in full.items() if name.startswith("SLURM_")}
    for part in parts:
        name, equals, value = part.partition("=")
        if equals:
            env[name] = value
        elif name in full:
            env[name] = full[name]
    return env


def _about(job: Job, asked: Submission, cluster_name: str) -> dict[str, str]:
    nodes = hostlist.compress(job.nodes)
    env = {
        "ENVIRONMENT": "BATCH",
        "HOSTNAME": job.nodes[0],
        "SLURMD_NODENAME": job.nodes[0],
        "SLURM_CLUSTER_NAME": cluster_name,
        "SLURM_CPUS_ON_NODE": str(asked.cpus),
        "SLURM_GTIDS": "0",
        "SLURM_JOBID": str(job.id),
        "SLURM_JOB_CPUS_PER_NODE": str(asked.cpus) + (f"(x{asked.nodes})" if asked.nodes > 1 else ""),
        "SLURM_JOB_GID": str(asked.gid),
        "SLURM_JOB_ID": str(job.id),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": str(asked.nodes),
        "SLURM_JOB_PARTITION": job.partition,
        "SLURM_JOB_QOS": asked.qos,
        "SLURM_JOB_UID": str(asked.uid),
        "SLURM_JOB_USER": asked.user,
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": str(asked.nodes),
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": nodes,
        "SLURM_NODE_ALIASES": "(null)",
        "SLURM_PRIO_PROCESS": "0",
        "SLURM_PROCID": "0",
        "SLURM_SUBMIT_DIR": asked.workdir,
        "SLURM_SUBMIT_HOST": "localhost",
        "SLURM_TASKS_PER_NODE": str(-(-asked.ntasks // asked.nodes)),
        "SLURM_TOPOLOGY_ADDR": job.nodes[0],
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
    }
    env |= _about_sizes(asked) | _about_array(job, asked)
    if job.restarts:
        env["SLURM_RESTART_COUNT"] = str(job.restarts)
    return env


def _about_array(job: Job, asked: Submission) -> dict[str, str]:
    if job.index is None or not asked.array:
        return {}
    return {
        "SLURM_ARRAY_JOB_ID": str(job.array_id),
        "SLURM_ARRAY_TASK_ID": str(job.index),
        "SLURM_ARRAY_TASK_COUNT": str(len(asked.array)),
        "SLURM_ARRAY_TASK_MIN": str(min(asked.array)),
        "SLURM_ARRAY_TASK_MAX": str(max(asked.array)),
        "SLURM_ARRAY_TASK_STEP": str(asked.array[1] - asked.array[0] if len(asked.array) > 1 else 1),
    }


def _about_sizes(asked: Submission) -> dict[str, str]:
    env = {}
    if asked.mem_mb is not None:
        env["SLURM_MEM_PER_NODE"] = str(asked.mem_mb)
    else:
        env["SLURM_MEM_PER_CPU"] = str(asked.mem_per_cpu)
    if asked.named:
        env["SLURM_JOB_NAME"] = asked.name
    if asked.cpus_asked:
        env["SLURM_CPUS_PER_TASK"] = str(asked.cpus_per_task)
    if asked.ntasks_asked:
        env |= {"SLURM_NTASKS": str(asked.ntasks), "SLURM_NPROCS": str(asked.ntasks)}
    if asked.account:
        env["SLURM_JOB_ACCOUNT"] = asked.account
    if asked.append:
        env["SLURM_OPEN_MODE"] = "a"
    if asked.export is not None and asked.export.upper() != "ALL":
        env["SLURM_EXPORT_ENV"] = asked.export
    return env
