"""Run Fractal workflows on SLURM."""

from .backend import SlurmBackend
from .calls import as_user
from .options import SlurmOptions
from .scheduler import Scheduler

__all__ = ["Scheduler", "SlurmBackend", "SlurmOptions", "as_user"]
