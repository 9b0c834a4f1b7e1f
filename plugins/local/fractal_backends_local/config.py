"""The local backend's options."""

from __future__ import annotations

from fractal_backends import MemoryMB, Options, StrictPositiveInt

from .machine import this_machine


class LocalBackendConfig(Options):
    """How many units run at once on this machine."""

    parallel_tasks_per_job: StrictPositiveInt | None = None
    """Units in flight at most. Where it is not set: the machine's cores, and cpus_per_task and mem count."""
    cpus_per_task: StrictPositiveInt = 1
    """Cores that a unit uses."""
    mem: MemoryMB | None = None
    """Memory that a unit uses, in MB, or with a unit as in "4G"."""

    @property
    def ceiling(self) -> int:
        """Units in flight at most."""
        return self.parallel_tasks_per_job or this_machine().cores
