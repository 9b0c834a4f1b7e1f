"""A SLURM that is started, harmed, mended and removed."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from . import machine
from .accounting import Accounting
from .processes import (
    Daemon,
    LabError as LabError,
    command_line,
    end,
    eventually,
    identity,
    parent_of,
    run,
    with_in_environment,
)
from .settings import CGROUP_CONF, CGROUPS, MemoryKill, Settings, gres_conf, slurm_conf

COUNTED = ("sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo", "srun")
READY = ("idle", "mixed", "allocated")
START_S = 30.0
SAVE_S = 6.0
"""After so long, a bit more than its 5 s, slurmctld saves what changes at once."""
OWNER = "owner"
SETTINGS = "slurm-lab.json"


class SlurmLab:
    """One SLURM; `folder`, if given, is where it is, perhaps already. Without, it belongs to this process.

    Raises LabError where the folder holds anything else, for `stop` removes it.
    """

    def __init__(self, settings: Settings | None = None, folder: Path | None = None) -> None:
        self.settings = settings or Settings()
        self._changes: dict[str, str] = {}
        self._has_forgotten = False
        self._answered_at = 0.0
        owned = folder is None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="slurm-lab-", dir="/tmp"))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / SETTINGS).exists():
            raise LabError(f"{folder} holds files of others: name a folder that is new or empty")
        folder.chmod(0o755)
        self.folder = folder.resolve()
        if owned:
            (self.folder / OWNER).write_text(identity(os.getpid()))
        self.place = machine.place_of(self.folder) or machine.take_place(self.folder)
        self.conf = self.folder / "etc" / "slurm.conf"
        self._calls = self.folder / "calls"
        own = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SLURM_CONF": str(self.conf)}
        self._env = own
        run_folder = self.folder / "run"
        slurmctld = machine.program("slurmctld") or "slurmctld"
        self.slurmctld = Daemon((slurmctld,), run_folder / "slurmctld.pid", own)
        self._slurmd = machine.program("slurmd") or "slurmd"
        self._accounting = Accounting(self.place, own)

    @classmethod
    def at(cls, folder: Path) -> Self:
        """One that was started before."""
        values = json.loads((folder / SETTINGS).read_text())
        kill = MemoryKill(values.pop("memory_kill"))
        accounts = tuple(values.pop("accounts"))
        return cls(Settings(memory_kill=kill, accounts=accounts, **values), folder)

    # -- for those who use it ---------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this SLURM, and to be counted."""
        return {"SLURM_CONF": str(self.conf), "PATH": f"{self.folder}/bin:{os.environ.get('PATH', '')}"}

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return [self.place.node(index) for index in range(1, self.settings.nodes + 1)]

    def run(self, *command: str, deadline_s: float = 30.0, text: str | None = None) -> str:
        """What a command of SLURM printed; it is not counted, and must succeed."""
        return run(*command, env=self._env, deadline_s=deadline_s, text=text)

    def calls(self, program: str | None = None) -> list[list[str]]:
        """The calls of SLURM's commands through `env` so far, oldest first: program and arguments."""
        noted = self._calls.read_text() if self._calls.exists() else ""
        calls = [call.split("\037")[:-1] for call in noted.split("\036")[:-1]]
        return [call for call in calls if program in (None, call[0])]

    def forget_calls(self) -> None:
        """Count from here on."""
        self._calls.write_text("")

    def jobs(self) -> dict[str, str]:
        """All jobs that have not ended, and array tasks one by one: `12` or `12_3`, and the state."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def processes(self) -> dict[int, str]:
        """All processes of jobs, wherever they are, and their commands."""
        found = with_in_environment(f"SLURM_CLUSTER_NAME={self.place.cluster}")
        ours = with_in_environment(f"SLURM_CONF={self.conf}")
        found |= {pid: command for pid, command in ours.items() if command.startswith("slurmstepd:")}
        for node in self.nodes:
            jobs = f"{CGROUPS}/freezer/slurm_{node}/uid_*/job_*"
            for file in glob.glob(f"{jobs}/**/cgroup.procs", recursive=True):
                with suppress(OSError):
                    found |= {int(pid): command_line(int(pid)) for pid in Path(file).read_text().split()}
        return {pid: command for pid, command in found.items() if command}

    # -- start and stop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start whatever is not there, and wait until all nodes are ready for jobs."""
        reason = machine.why_not(self.settings.accounting)
        if reason is not None:
            raise LabError(reason)
        machine.prepare()
        (self.folder / SETTINGS).write_text(json.dumps(asdict(self.settings)))
        self._make_folders()
        self._configure()
        if self.settings.accounting:
            self._accounting.start(self.settings.accounts)
        self.start_slurmctld()
        for node in self.nodes:
            self._daemon_of(node).start()
        self.heal()

    def stop(self) -> None:
        """End all jobs and daemons, and remove all that there was of it."""
        for daemon in [*map(self._daemon_of, self.nodes), self.slurmctld]:
            daemon.kill()
        try:
            eventually(self._jobs_are_gone, START_S, "processes of jobs or their cgroups cannot be removed")
        finally:
            self._give_back()

    def _jobs_are_gone(self) -> bool:
        """Try to; a process that is ending keeps its cgroup for a moment longer than its command line."""
        end(self.processes(), 0)
        for node in self.nodes:
            for path in CGROUPS.glob(f"*/slurm_{node}"):
                _remove_cgroup(path)
        return not any(list(CGROUPS.glob(f"*/slurm_{node}")) for node in self.nodes)

    def _give_back(self) -> None:
        self._accounting.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        machine.give_back(self.place)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- harm and repair ----------------------------------------------------------------------------------

    def start_slurmctld(self) -> None:
        """Start the controller, and wait until it answers."""
        self.slurmctld.start()
        eventually(self._controller_answers, START_S, "slurmctld does not answer")
        self._answered_at = time.time()

    def crash_slurmctld(self) -> None:
        """As if the controller's machine had lost its power: what is not saved is forgotten."""
        self.slurmctld.kill()
        self._has_forgotten = True
        # It tells the second of its start: two starts of the same one look like one.
        eventually(lambda: int(time.time()) > int(self._answered_at), 2, "the clock stands still")

    def end_ghosts(self) -> None:
        """After a crash: jobs that the controller takes for running because it forgot their end."""
        if self._has_forgotten:
            self._cancel_all()
            self.wait_until_saved()
            self._has_forgotten = False

    def wait_until_saved(self) -> None:
        """Until the controller will find its jobs again if it is killed."""
        before = self._saved()
        # Nothing is saved where nothing has changed.
        held = self.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true").strip()
        self.run("scancel", held)
        eventually(lambda: self._saved() != before, START_S, "jobs are not saved")

    def _saved(self) -> tuple[int, int] | None:
        """What tells one state of the controller's file of jobs from the next; times of files may lag by some
        ticks."""
        try:
            found = (self.folder / "state" / "job_state").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def wait_until_saves_at_once(self) -> None:
        """Until the controller will save the next submission at once, and what becomes of it not for 5 s."""
        self.wait_until_saved()
        saved_at = (self.folder / "state" / "job_state").stat().st_mtime
        eventually(lambda: time.time() > saved_at + SAVE_S, 2 * SAVE_S, "the clock stands still")

    def kill_slurmd(self, node: str) -> None:
        """As if the node had lost its power, but the processes of its jobs live on."""
        self._daemon_of(node).kill()

    def kill_processes(self, node: str) -> None:
        """The other half of a loss of power."""
        found = {pid for pid in with_in_environment(f"SLURMD_NODENAME={node}") if pid in self.processes()}
        parents = {parent_of(pid) for pid in found}
        for pid in found:  # all at the same time: none may see another one end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        end([*(pid for pid in parents if "slurmstepd" in command_line(pid)), *found], 0)

    def start_slurmd(self, node: str) -> None:
        """The node is back."""
        self._daemon_of(node).start()

    def drain(self, node: str, reason: str = "test") -> None:
        """No further job starts there."""
        self.run("scontrol", "update", f"nodename={node}", "state=drain", f"reason={reason}")

    def resume(self, node: str) -> None:
        """Jobs may start there again."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def stop_slurmdbd(self) -> None:
        """No accounting for the time being."""
        self._accounting.slurmdbd.stop()

    def start_slurmdbd(self) -> None:
        """Accounting again."""
        self._accounting.start_slurmdbd()

    def sacctmgr(self, *arguments: str) -> str:
        """Change accounts, users and their limits."""
        return self.run("sacctmgr", "--immediate", "--noheader", "--parsable2", *arguments)

    @contextmanager
    def changed(self, **lines: str) -> Iterator[None]:
        """With other lines in slurm.conf for a while; the controller is restarted for both changes."""
        self._reconfigure(lines)
        try:
            yield
        finally:
            self._reconfigure({})

    def _reconfigure(self, changes: Mapping[str, str]) -> None:
        self._changes = dict(changes)
        self._configure()
        self.slurmctld.stop()
        self.start_slurmctld()
        self.heal()

    def heal(self) -> None:
        """Whatever was done to it: start what is missing, bring all nodes back, and wait for that."""
        if self.settings.accounting and self._accounting.slurmdbd.pid is None:
            self.start_slurmdbd()
        self.start_slurmctld()
        for node in self.nodes:
            self._daemon_of(node).start()
        eventually(self._nodes_are_ready, START_S, lambda: f"nodes that are not ready: {self.states()}")

    def states(self) -> dict[str, str]:
        """The nodes and their states, as `sinfo` has them."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def clear(self) -> None:
        """End all jobs, and wait until nothing of them is left."""
        self._cancel_all()
        self.leftovers_after(15)
        end(self.processes(), 0)
        eventually(lambda: not self.leftovers(), START_S, lambda: f"left: {self.leftovers()}")

    def _cancel_all(self) -> None:
        if jobs := {job.partition("_")[0] for job in self.jobs()}:
            self.run("scancel", *jobs)

    def leftovers(self) -> list[str]:
        """Jobs that have not ended and processes of jobs, for people to read."""
        jobs = [f"job {job}: {state}" for job, state in self.jobs().items()]
        return jobs + [f"process {pid}: {line}" for pid, line in self.processes().items()]

    def leftovers_after(self, seconds: float) -> list[str]:
        """What is still left after a while; returns at once where nothing is."""
        with suppress(LabError):
            eventually(lambda: not self.leftovers(), seconds, "")
        return self.leftovers()

    # -- inside -------------------------------------------------------------------------------------------

    def _daemon_of(self, node: str) -> Daemon:
        return Daemon((self._slurmd, "-N", node), self.folder / "run" / f"slurmd-{node}.pid", self._env)

    def _controller_answers(self) -> bool:
        result = subprocess.run(
            ["scontrol", "ping"], check=False, capture_output=True, text=True, env=self._env, timeout=60
        )
        return "UP" in result.stdout

    def _nodes_are_ready(self) -> bool:
        states = self.states()
        for node, state in states.items():
            if state not in READY and not state.endswith("*"):
                with suppress(LabError):
                    self.resume(node)
        return set(states.values()) <= set(READY)

    def _make_folders(self) -> None:
        for name in ("etc", "run", "log", "spool", "state", "bin", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(exist_ok=True)
        for name in ("state", "log"):
            shutil.chown(self.folder / name, "slurm", "slurm")
        self._calls.touch()
        self._calls.chmod(0o666)
        for name in COUNTED:
            self._make_counting(name)

    def _make_counting(self, name: str) -> None:
        """A program that writes down that it was called, and becomes the one that was meant."""
        counting = self.folder / "bin" / name
        # In a shell of its own: a limit on the size of files must not end the command.
        note = f"""(printf '%s\\036' "$(printf '%s\\037' {name} "$@")" >>{shlex.quote(str(self._calls))})"""
        counting.write_text(f'#!/bin/sh\n{note}\nexec {machine.program(name) or name} "$@"\n')
        counting.chmod(0o755)

    def _configure(self) -> None:
        etc = self.folder / "etc"
        (etc / "cgroup.conf").write_text(CGROUP_CONF)
        (etc / "gres.conf").write_text(gres_conf(self.place, self.settings))
        self.conf.write_text(slurm_conf(self.place, self.settings, self._changes))


def stop_abandoned() -> None:
    """Stop labs whose owner was killed and could not."""
    for place in machine.places():
        owner, settings = place.folder / OWNER, place.folder / SETTINGS
        if owner.exists() and settings.exists():
            text = owner.read_text()
            if text and identity(int(text.split()[0])) != text:
                SlurmLab.at(place.folder).stop()


def _remove_cgroup(path: Path) -> None:
    for folder in sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        path.rmdir()
