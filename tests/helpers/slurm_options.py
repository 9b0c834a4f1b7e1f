"""The options of the slurm backend, as a run prepares them from its sources, without a cluster."""

from __future__ import annotations

from typing import Any

from fractal_backends_slurm.options import SlurmOptions
from fractal_backends_slurm.site_file import option_sources

from fractal_backends import Backend, RunInfo, Source, UnitExecutor

Json = dict[str, Any]


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
