"""Run Fractal workflows on SLURM."""

from .backend import SlurmBackend
from .options import SlurmOptions
from .scheduler import Scheduler

__all__ = ["Scheduler", "SlurmBackend", "SlurmOptions"]
