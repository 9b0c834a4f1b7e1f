"""Run Fractal workflows on SLURM."""

from .options import SlurmOptions

__all__ = ["SlurmOptions"]
