"""Run Fractal workflows on a scheduler in miniature, which behaves like SLURM on a machine that has none."""

from .backend import DummySlurmBackend
from .lease import DummySlurmError, Lease, ensure_running

__all__ = ["DummySlurmBackend", "DummySlurmError", "Lease", "ensure_running"]
