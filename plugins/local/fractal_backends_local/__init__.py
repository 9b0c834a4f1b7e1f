"""Run Fractal workflows on this machine."""

from .backend import LocalBackend
from .config import LocalBackendConfig
from .pool import FractalThreadPoolExecutor

__all__ = ["FractalThreadPoolExecutor", "LocalBackend", "LocalBackendConfig"]
