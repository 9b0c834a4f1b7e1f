"""What a pool's worker does: it executes units, each of them once, for as long as their run permits it.

Workers import this module, so it imports little.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from ..interface import Cause, Outcome, Unit
from .supervisor import Supervisor

_POLL_S = 0.1
_IDLE_S = 10.0
"""How long a supervisor without a unit is kept; a runner that was killed does not take back its permit."""


class Permit:
    """A file that lets the units of a run go on for as long as it is there and not empty.

    Workers that have anything of the run hold a lock on it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def revoke(self) -> None:
        """Where the folder has become read-only, and where the disk is full, a file can still be emptied."""
        with contextlib.suppress(OSError):
            os.truncate(self.path, 0)

    def end(self) -> None:
        """There is nothing to permit any more."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def holds(self) -> bool:
        """Whether units may go on. No answer is no revocation."""
        try:
            # Opened, because what a network file system tells of a file without that may be a minute old.
            with open(self.path, "rb") as file:
                return bool(file.read(1))
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def use(self) -> contextlib.ExitStack:
        """Something of the run is in this process until this is closed."""
        with contextlib.ExitStack() as opened:
            with contextlib.suppress(OSError):  # there are file systems without locks
                fcntl.flock(opened.enter_context(open(self.path, "rb")), fcntl.LOCK_SH)
            return opened.pop_all()

    def wait_until_unused(self, timeout_s: float) -> None:
        """Until no worker has anything of the run."""
        end = time.monotonic() + timeout_s
        with contextlib.suppress(OSError), open(self.path, "r+b") as file:
            while time.monotonic() < end:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_POLL_S / 10)
                else:
                    return


class _Post:
    """A run's supervisor in this process. It goes when the run does, or when it has nothing to do."""

    def __init__(self, permit: Permit, umask: int) -> None:
        self.supervisor = Supervisor(umask)
        self.units = 0
        self._permit = permit
        self._idle_since = time.monotonic()
        # A process that ends does not wait for it, whatever its run does.
        threading.Thread(target=self._serve, args=[permit.use()], name="fractal-watch", daemon=True).start()

    def end_unit(self) -> None:
        self.units -= 1
        self._idle_since = time.monotonic()

    def _serve(self, in_use: contextlib.ExitStack) -> None:
        with in_use:
            while self._is_wanted():
                time.sleep(_POLL_S)
            self.supervisor.stop()

    def _is_wanted(self) -> bool:
        permitted = self._permit.holds()
        with _lock:
            idle = not self.units and time.monotonic() - self._idle_since > _IDLE_S
            if permitted and not idle:
                return True
            del _posts[self._permit.path]
            return False


_lock = threading.Lock()
_posts: dict[str, _Post] = {}


@contextlib.contextmanager
def _supervisor(permit: Permit, umask: int) -> Iterator[Supervisor]:
    with _lock:
        if permit.path not in _posts:
            _posts[permit.path] = _Post(permit, umask)
        post = _posts[permit.path]
        post.units += 1
    try:
        yield post.supervisor
    finally:
        with _lock:
            post.end_unit()


def execute_unit(unit: Unit, permit_file: str, umask: int) -> Outcome:
    """Run one unit to its end; end it when its run's permit is revoked.

    A unit's log is made before anything else, and by one worker only: a pool may give a unit whose worker
    died to the next one, which cannot know how far the first one came.
    """
    permit = Permit(permit_file)
    try:
        os.close(os.open(unit.log_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return Outcome(Cause.LOST, "The worker that had started the unit is gone.")
    except OSError as error:
        return Outcome(Cause.LAUNCH_FAILED, f"Cannot write the log {unit.log_file}: {error.strerror}.")
    if not permit.holds():
        os.unlink(unit.log_file)
        return Outcome(Cause.CANCELLED)
    with _supervisor(permit, umask) as supervisor:
        outcome = supervisor.execute(unit)
        if outcome.cause is Cause.CANCELLED:
            supervisor.stop()  # has begun; returns when all is over that the unit started
        return outcome
