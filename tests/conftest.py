"""What makes the tests quick."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """What was imported stays: no test's search for what is left behind need go through it again."""
    gc.freeze()
