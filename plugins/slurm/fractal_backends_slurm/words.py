"""What was printed on the compute nodes: by SLURM, by worker_init, and by srun."""

from __future__ import annotations

from fractal_backends import Unit

from . import verdicts
from .places import Place
from .submission import Submission

_MANY = 250
"""Of so many array tasks the output is looked at where units failed by themselves; that may take calls."""


class Words:
    """Of the jobs of one submission."""

    def __init__(self, submission: Submission, place: Place) -> None:
        self._folder = submission.folder
        self._place = place
        self._last: dict[tuple[str, int], str] = {}
        self._now: dict[tuple[str, int], str] = {}

    def forget(self) -> None:
        """Time goes on: what is asked for is read anew, once."""
        self._now.clear()

    def on_job(self, job: str, index: int) -> str:
        """What SLURM wrote into the output of an array task."""
        key = (job, index)
        if key not in self._now:
            self._now[key] = self._place.text(self._folder / f"{job}_{index}.out")
        return self._now[key]

    def last_on_job(self, job: str, index: int) -> str:
        """The end of that; of most array tasks, as others will hardly say anything else."""
        key = (job, index)
        if key not in self._last and len(self._last) < _MANY:
            self._last[key] = verdicts.last_of(self.on_job(job, index))
        return self._last.get(key, "")

    def on_step(self, unit: Unit) -> str:
        """What srun said of a unit that was a step of its own."""
        return self._place.text(self._folder / f"{unit.label}.step" / "out")
