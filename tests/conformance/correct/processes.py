"""Python's own process pool."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import ClassVar

from fractal_backends import FuturesBackend, Options, RunInfo, StrictPositiveInt

_MOST = 61


class ProcessesOptions(Options):
    """What users may ask for."""

    workers: StrictPositiveInt = 2
    """Processes that execute units; no more than 61."""


class ProcessesBackend(FuturesBackend):
    """A pool of processes for each run, which grows as far as units need it."""

    name = "processes"
    interface_version = 1
    options_model = ProcessesOptions
    capabilities = frozenset({"concurrency_limit"})
    capability_options: ClassVar[Mapping[str, str]] = {"concurrency_limit": "workers"}

    def open_pool(self, run: RunInfo) -> Executor:
        """See `FuturesBackend.open_pool`."""
        return ProcessPoolExecutor(_MOST, mp_context=get_context("spawn"))
