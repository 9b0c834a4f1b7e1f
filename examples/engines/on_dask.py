"""A backend on a dask cluster that is there already, and serves any number of runs at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from distributed import Client

from fractal_backends import FuturesBackend, Options, RunInfo


class DaskOptions(Options):
    scheduler: str = os.environ.get("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:8786")
    """Address of the cluster's scheduler."""


class DaskBackend(FuturesBackend):
    name = "dask"
    interface_version = 1
    options_model = DaskOptions

    @contextmanager
    def open_pool(self, run: RunInfo) -> Iterator[Executor]:
        address = DaskOptions(**self.options).scheduler
        with Client(address, set_as_default=False) as client, client.get_executor(pure=False) as pool:
            yield pool
