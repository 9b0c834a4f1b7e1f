"""Run Fractal workflows on any machine, through backends picked by name.

from fractal_backends import get_backend

result = await get_backend("local").process_workflow(
    workflow=..., dataset=..., workflow_dir_local=..., logger_name=...
)
"""

from .engine.backend import Backend
from .errors import (
    BrokenBackendError,
    DuplicateBackendError,
    FractalBackendsError,
    InterfaceVersionError,
    InvalidInputError,
    JobExecutionError,
    RegistryError,
    RunFolderError,
    TaskExecutionError,
    UnknownBackendError,
    UnsupportedArgumentError,
)
from .execution.futures import FuturesBackend, FuturesExecutor, WindowExecutor
from .execution.supervisor import Supervisor
from .hooks import ObserverHooks, hookimpl
from .interface import (
    INTERFACE_VERSION,
    Cause,
    Outcome,
    RunInfo,
    RunResult,
    StandardBackend,
    Support,
    TaskInfo,
    TaskReport,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)
from .models import (
    Dataset,
    Filters,
    Image,
    ImageUpdate,
    InitOutput,
    ParallelizationItem,
    Task,
    TaskOutput,
    TaskType,
    Workflow,
    WorkflowTask,
    load,
)
from .options import MemoryMB, Options, StrictPositiveInt
from .registry import BackendInfo, BackendState, available_backends, get_backend

__all__ = [
    "INTERFACE_VERSION",
    "Backend",
    "BackendInfo",
    "BackendState",
    "BrokenBackendError",
    "Cause",
    "Dataset",
    "DuplicateBackendError",
    "Filters",
    "FractalBackendsError",
    "FuturesBackend",
    "FuturesExecutor",
    "Image",
    "ImageUpdate",
    "InitOutput",
    "InterfaceVersionError",
    "InvalidInputError",
    "JobExecutionError",
    "MemoryMB",
    "ObserverHooks",
    "Options",
    "Outcome",
    "ParallelizationItem",
    "RegistryError",
    "RunFolderError",
    "RunInfo",
    "RunResult",
    "StandardBackend",
    "StrictPositiveInt",
    "Supervisor",
    "Support",
    "Task",
    "TaskExecutionError",
    "TaskInfo",
    "TaskOutput",
    "TaskReport",
    "TaskType",
    "Unit",
    "UnitEvent",
    "UnitExecutor",
    "UnitState",
    "UnknownBackendError",
    "UnsupportedArgumentError",
    "WindowExecutor",
    "Workflow",
    "WorkflowTask",
    "available_backends",
    "get_backend",
    "hookimpl",
    "load",
]
