"""Runs a command, or a shell, in which SLURM's commands are those of the dummy cluster.

    python -m fractal_backends_dummy_slurm [COMMAND [ARGUMENT ...]]

Ends with the command's exit code. DUMMY_SLURM_CONFIG names a file of settings, DUMMY_SLURM_DIR the folder
of the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from .cluster.config import ConfigError
from .lease import DummySlurmError, Lease, configuration, default_folder


def main(words: Sequence[str]) -> int:
    """Returns the command's exit code."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    command = words or [os.environ.get("SHELL", "/bin/sh")]
    try:
        with Lease(default_folder(), configuration()) as lease:
            env = {**os.environ, "PATH": f"{lease.commands}:{os.environ['PATH']}"}
            return subprocess.run(command, env=env, check=False).returncode
    except FileNotFoundError as error:
        print(f"There is no command {error.filename!r}.", file=sys.stderr)
        return 127
    except (ConfigError, DummySlurmError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
