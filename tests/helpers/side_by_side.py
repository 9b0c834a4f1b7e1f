"""What takes minutes and waits now and then, done for several tests at once, before the first of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

ResultT = TypeVar("ResultT")

AT_ONCE = (os.cpu_count() or 1) + 1


def side_by_side(
    request: pytest.FixtureRequest, parameter: str, work: Callable[[str], ResultT]
) -> dict[str, Future[ResultT]]:
    """How the work ended for each value that the parameter has in the tests that use the fixture."""
    users = [
        item
        for item in request.session.items
        if request.node in item.listchain() and request.fixturename in getattr(item, "fixturenames", ())
    ]
    values = [item.callspec.params[parameter] for item in users if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {value: pool.submit(work, value) for value in values}
