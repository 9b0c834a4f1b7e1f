"""Run Fractal workflows on any machine, through backends picked by name.

from fractal_backends import get_backend

result = await get_backend("local").process_workflow(
    workflow=..., dataset=..., workflow_dir_local=..., logger_name=...
)
"""

# Importing this package is quick: what it offers is imported when it is first asked for.
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.backend import (
        Backend as Backend,
    )
    from .errors import (
        BrokenBackendError as BrokenBackendError,
        DuplicateBackendError as DuplicateBackendError,
        FractalBackendsError as FractalBackendsError,
        InterfaceVersionError as InterfaceVersionError,
        InvalidInputError as InvalidInputError,
        JobExecutionError as JobExecutionError,
        RegistryError as RegistryError,
        RunFolderError as RunFolderError,
        TaskExecutionError as TaskExecutionError,
        UnknownBackendError as UnknownBackendError,
        UnsupportedArgumentError as UnsupportedArgumentError,
    )
    from .execution.futures import (
        FuturesBackend as FuturesBackend,
        FuturesExecutor as FuturesExecutor,
        WindowExecutor as WindowExecutor,
    )
    from .execution.supervisor import (
        Supervisor as Supervisor,
    )
    from .hooks import (
        ObserverHooks as ObserverHooks,
        hookimpl as hookimpl,
    )
    from .interface import (
        INTERFACE_VERSION as INTERFACE_VERSION,
        Cause as Cause,
        Outcome as Outcome,
        RunInfo as RunInfo,
        RunResult as RunResult,
        StandardBackend as StandardBackend,
        Support as Support,
        TaskInfo as TaskInfo,
        TaskPart as TaskPart,
        TaskReport as TaskReport,
        Unit as Unit,
        UnitEvent as UnitEvent,
        UnitExecutor as UnitExecutor,
        UnitState as UnitState,
    )
    from .models import (
        Dataset as Dataset,
        Filters as Filters,
        Image as Image,
        ImageUpdate as ImageUpdate,
        InitOutput as InitOutput,
        ParallelizationItem as ParallelizationItem,
        Task as Task,
        TaskOutput as TaskOutput,
        TaskType as TaskType,
        Workflow as Workflow,
        WorkflowTask as WorkflowTask,
        load as load,
    )
    from .options import (
        MemoryMB as MemoryMB,
        Options as Options,
        Source as Source,
        StrictPositiveInt as StrictPositiveInt,
    )
    from .registry import (
        BackendInfo as BackendInfo,
        BackendState as BackendState,
        available_backends as available_backends,
        get_backend as get_backend,
    )

_NAMES = {
    ".engine.backend": [
        "Backend",
    ],
    ".errors": [
        "BrokenBackendError",
        "DuplicateBackendError",
        "FractalBackendsError",
        "InterfaceVersionError",
        "InvalidInputError",
        "JobExecutionError",
        "RegistryError",
        "RunFolderError",
        "TaskExecutionError",
        "UnknownBackendError",
        "UnsupportedArgumentError",
    ],
    ".execution.futures": [
        "FuturesBackend",
        "FuturesExecutor",
        "WindowExecutor",
    ],
    ".execution.supervisor": [
        "Supervisor",
    ],
    ".hooks": [
        "ObserverHooks",
        "hookimpl",
    ],
    ".interface": [
        "INTERFACE_VERSION",
        "Cause",
        "Outcome",
        "RunInfo",
        "RunResult",
        "StandardBackend",
        "Support",
        "TaskInfo",
        "TaskPart",
        "TaskReport",
        "Unit",
        "UnitEvent",
        "UnitExecutor",
        "UnitState",
    ],
    ".models": [
        "Dataset",
        "Filters",
        "Image",
        "ImageUpdate",
        "InitOutput",
        "ParallelizationItem",
        "Task",
        "TaskOutput",
        "TaskType",
        "Workflow",
        "WorkflowTask",
        "load",
    ],
    ".options": [
        "MemoryMB",
        "Options",
        "Source",
        "StrictPositiveInt",
    ],
    ".registry": [
        "BackendInfo",
        "BackendState",
        "available_backends",
        "get_backend",
    ],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
