"""pytest's way to the suite: `pytest --pyargs fractal_backends.conformance --backend NAME`.

pytest loads this module wherever the package is installed, so it does nothing unless the suite is to run.
"""

from __future__ import annotations

from typing import Any

SUITE = "fractal_backends.conformance"


def pytest_load_initial_conftests(early_config: Any, args: list[str]) -> None:
    """Bring in the suite's options and fixtures if its tests are among what is to run."""
    if any(argument.startswith(SUITE) for argument in args):
        early_config.pluginmanager.import_plugin(f"{SUITE}.session")
