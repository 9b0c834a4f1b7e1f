"""A real SLURM on this machine, to test with: several nodes, with or without accounting; several at once.

`python -m slurm_lab start` makes one by hand; in Python:

with SlurmLab(Settings(nodes=2)) as lab:
    lab.run("sbatch", "--wrap", "hostname")
"""

from __future__ import annotations

from .lab import LabError as LabError, SlurmLab as SlurmLab
from .machine import RUNNER as RUNNER, USERS as USERS, why_not as why_not
from .settings import MemoryKill as MemoryKill, Settings as Settings
