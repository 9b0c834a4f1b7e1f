"""A backend that is not built on the engine: all that `StandardBackend` asks for, and the least beside it.

It hands its runs to another backend, as one would that chooses among several. It has no options model, no
executors that could be given units, and takes no observers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fractal_backends import RunResult, get_backend


class StandardOnly:
    """Forwards to `local`."""

    name = "standard-only"
    interface_version = 1
    capabilities = frozenset({"ends_with_runner"})
    arguments: ClassVar[Mapping[str, str]] = {
        "workflow_dir_remote": "refused",
        "user_cache_dir": "honoured",
        "slurm_user": "ignored",
        "slurm_account": "ignored",
        "worker_init": "ignored",
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._inner = get_backend("local", options=options)

    async def process_workflow(self, **arguments: Any) -> RunResult:
        """See `StandardBackend`."""
        result: RunResult = await self._inner.process_workflow(**arguments)
        return result
