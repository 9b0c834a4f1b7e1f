"""What the faults do to commands and jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from .client import NO_CONTACT, unreachable
from .faults import COMMAND_FAULTS, JOB_FAULTS, Fault, Faults, plan
from .jobs import RUNNING, Job
from .launch import as_owner

if TYPE_CHECKING:
    from .server import Server

_RUBBISH = b"slurm_load_jobs: \xff\xfe ??? 12|\n|||||\nBUS ERROR at 0x7f\n"
_REFUSED = "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"


class Misbehaviour:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._faults = Faults(plan(server.config.faults))
        self._late: dict[str, list[Any]] = {}
        """Of each late receipt where it is kept; and when it is due after its job's end."""
        self._pending: list[Fault] = []
        """What is to befall a job that has started,"""
        self._with_next: list[Fault] = []
        """and the next one that starts, as it was too late for another."""

    def state(self) -> dict[str, Any]:
        """What a controller that is started again has to know, as JSON."""
        missed = [asdict(fault) for fault in (*self._pending, *self._with_next)]
        return {"seen": self._faults.seen, "late": self._late, "missed": missed}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where the controller before stopped."""
        self._faults.seen.update(state["seen"])
        self._late.update(state["late"])
        self._with_next = [Fault(**fault) for fault in state["missed"]]
        for key in self._late:
            if key not in self._server.node_side.links:  # its job ended meanwhile
                self.job_ended(key)

    # Commands

    def answer(self, command: str, execute: Callable[[], list[bytes]], words: list[str]) -> list[bytes]:
        """What the command gets to see."""
        if "--test-only" in words:  # no submission
            return execute()
        befalls = None
        for fault in self._faults.on(command):
            if fault.kind in COMMAND_FAULTS:
                befalls = fault
                self._note(fault, " ".join([command, *words]))
            else:
                self._later(fault, None)
        return execute() if befalls is None else self._befall(befalls, command, execute, words)

    def _befall(
        self, fault: Fault, command: str, execute: Callable[[], list[bytes]], words: list[str]
    ) -> list[bytes]:
        if fault.kind == "lost_answer":
            code, *_ = execute()
            if code != b"0":
                return [code, *_]
            return [b"silent", b"", b"", b"%f" % float(fault.values.get("seconds", 0.2))]
        if fault.kind == "silent":
            return [
                b"silent",
                b"",
                b"",
                b"%f" % float(fault.values.get("seconds", self._server.config.contact_s)),
            ]
        if fault.kind == "rubbish":
            return [b"0", _RUBBISH, b"", b""]
        if fault.kind == "refused":
            return [b"1", b"", _REFUSED.encode(), b""]
        code_, out, err = unreachable(command, words, NO_CONTACT)
        return [b"%d" % code_, out, err, b""]

    # Jobs

    def job_starts(self, job: Job) -> dict[str, object]:
        """What its stepd is told besides."""
        extra: dict[str, object] = {}
        missed, self._with_next = self._with_next, []
        for fault in [*self._faults.on("start"), *missed]:
            if fault.kind == "late_receipts":
                self._note(fault, job.name)
                extra |= self._make_late(job, float(fault.values.get("seconds", 1.0)))
            else:
                self._later(fault, job)
        return extra

    def _later(self, fault: Fault, job: Job | None) -> None:
        run = job.restarts if job is not None else 0
        spool = job.spool if job is not None else ""

        def happen() -> None:
            self._pending.remove(fault)
            is_of_this_start = job is None or (job.restarts == run and job.spool == spool)
            if not (is_of_this_start and self.happen(fault, job)):
                self._server.log(f"fault: {fault.kind} finds its job ended, and comes with the next one")
                self._with_next.append(fault)

        self._pending.append(fault)
        self._server.timers.after(fault.after_s, happen)

    def now(self, fault: Fault) -> bool:
        """Let it happen, or, if it comes with a command or a start, with the next one. False: no job runs."""
        if fault.on != "start" or fault.kind == "late_receipts":
            self._faults.add(fault)
            return True
        if fault.kind in JOB_FAULTS and self._server.job_of_fault(None) is None:
            return False
        self._later(fault, None)
        return True

    def happen(self, fault: Fault, job: Job | None) -> bool:
        """Now. False: the job has ended, or none runs."""
        server, controller = self._server, self._server.controller
        if fault.kind not in JOB_FAULTS:
            self._note(fault, "")
        if fault.kind == "restart":
            server.restart(float(fault.values.get("forget_s", 2.0)), float(fault.values.get("down_s", 1.0)))
        elif fault.kind == "accounting_lag":
            controller.accounting.lag_s = float(fault.values.get("seconds", 2.0))
        if fault.kind not in JOB_FAULTS:
            return True
        job = server.job_of_fault(job)
        if job is None or job.state != RUNNING or controller.jobs.get(job.id) is not job:
            return False
        self._note(fault, job.name)
        if fault.kind == "vanish":
            controller.vanish(job, str(fault.values.get("processes", "die")))
        elif fault.kind == "node_down":
            back_s = float(fault.values.get("back_s", 1.0))
            processes = str(fault.values.get("processes", "die"))
            controller.node_down(job.nodes[0], "Not responding", processes, back_s)
        elif fault.kind == "requeue":
            controller.requeue(job, "BeginTime", " DUE TO JOB REQUEUE")
        elif fault.kind == "out_of_memory":
            server.node_side.tell(job.spool, do="oom")
        elif fault.kind == "time_limit":
            controller.kill(job, "TIMEOUT", "TimeLimit", " DUE TO TIME LIMIT")
        return True

    def _note(self, fault: Fault, what: str) -> None:
        """For those who want to know afterwards what befell a job or a command."""
        self._server.controller.journal.write(fault=fault.kind, values=fault.values, befell=what)
        self._server.log(f"fault: {fault.kind} {fault.values} befalls {what}")

    # Receipts

    def _make_late(self, job: Job, seconds: float) -> dict[str, object]:
        """Writers, which inherit a file, see it through a link that leads nobody else anywhere."""
        controller = self._server.controller
        submission = controller.submissions[job.array_id]
        output = controller.file_name(submission.stdout, job, submission)
        receipt = os.path.splitext(output)[0] + ".receipt"
        folder = os.path.join(self._server.folder, "late")
        os.makedirs(folder, mode=0o755, exist_ok=True)
        kept = os.path.join(folder, job.spool)
        self._late[job.spool] = [receipt, seconds]
        return {"late_receipt": receipt, "late_file": kept}

    def job_ended(self, key: str) -> None:
        """Its receipt comes later."""
        if (late := self._late.get(key)) is not None:
            self._server.timers.after(late[1], lambda: self._deliver(key))

    def _deliver(self, key: str) -> None:
        late = self._late.pop(key, None)
        if late is None:
            return
        kept, receipt = os.path.join(self._server.folder, "late", key), late[0]
        self._server.log(f"the receipt {receipt} arrives")
        with contextlib.suppress(OSError):
            info = os.stat(kept)
            with open(kept, "rb") as file, as_owner(info.st_uid, info.st_gid):
                _replace(receipt, file, info.st_mode & 0o777)
            os.unlink(kept)

    def deliver_all(self) -> None:
        """The cluster ends."""
        for key in list(self._late):
            self._deliver(key)


def _replace(path: str, content: IO[bytes], mode: int) -> None:
    """The folder is the user's, who may have put a link there: nothing is written through it."""
    new = path + ".arriving"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(fd, mode)
    os.rename(new, path)
