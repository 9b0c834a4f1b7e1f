"""A backend on loky, the process pool under joblib: four processes, started for each run."""

from __future__ import annotations

from loky import ProcessPoolExecutor

from fractal_backends import FuturesBackend, RunInfo


class LokyBackend(FuturesBackend):
    name = "loky"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(max_workers=4)
