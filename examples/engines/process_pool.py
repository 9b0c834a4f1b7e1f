"""A backend on Python's own process pool: four processes, started for each run."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from fractal_backends import FuturesBackend, RunInfo


class ProcessPoolBackend(FuturesBackend):
    name = "process_pool"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(max_workers=4, mp_context=get_context("spawn"))
