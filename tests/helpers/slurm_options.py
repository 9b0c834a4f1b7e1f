"""The options of the slurm backend, as a run prepares them from its sources, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fractal_backends_slurm.options import SlurmOptions
from fractal_backends_slurm.site_file import option_sources

from fractal_backends import Backend, InvalidInputError, RunInfo, Source, UnitExecutor

Json = dict[str, Any]
SITE: Json = {
    "default_slurm_config": {
        **{"partition": "main", "cpus_per_task": 1, "mem": "1G", "account": "site"},
        "extra_lines": ["#SBATCH --reservation=all", "export VAR1=VALUE1"],
    },
    "gpu_slurm_config": {
        **{"partition": "gpu", "mem": "20G", "constraint": "a100"},
        "extra_lines": ["#SBATCH --gres=gpu:v100:1"],
    },
    "batching_config": {
        **{"target_cpus_per_job": 1, "max_cpus_per_job": 8, "target_mem_per_job": "200M"},
        **{"max_mem_per_job": 64_000, "target_num_jobs": 2, "max_num_jobs": 4},
    },
    "user_local_exports": {
        "CELLPOSE_LOCAL_MODELS_PATH": "CELLPOSE_LOCAL_MODELS_PATH",
        "NAPARI": "napari.json",
    },
}
"""A site file as admins of Fractal write it."""


class Slurm(Backend):
    """The backend, as far as options go."""

    name = "slurm"
    interface_version = 1
    options_model = SlurmOptions
    config_file_variable = "FRACTAL_SLURM_CONFIG_FILE"

    def open(self, run: RunInfo) -> UnitExecutor:
        """Not meant to be called."""
        raise AssertionError("nothing may start")

    @classmethod
    def option_sources(cls, file: Source | None, meta: Source, given: Source) -> list[Source]:
        """See `BackendAttributes.option_sources`."""
        return option_sources(cls.options_model, file, meta, given)


def prepare(meta: Json | None = None, given: Json | None = None) -> SlurmOptions:
    """Of a task with this meta, and what the site file says that the environment names."""
    task = {"name": "t", "type": "parallel", "command_parallel": "true"}
    workflow = {"task_list": [{"task": task, "meta_parallel": meta}]}
    options = Slurm(given).prepare(workflow, {"zarr_dir": "/z"}).tasks[0].parallel_options
    assert isinstance(options, SlurmOptions)
    return options


def problems(meta: Json | None = None, given: Json | None = None) -> list[str]:
    """What is wrong with a task's meta, the given options and the site file."""
    with pytest.raises(InvalidInputError) as caught:
        prepare(meta, given)
    return [problem.replace(str(Path.cwd()), ".") for problem in caught.value.problems]
