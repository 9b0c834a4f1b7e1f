"""Things to do later."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable


class Timers:
    """Those due are run by the one who waits."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """`when` as of `time.time`."""
        heapq.heappush(self._heap, (when, next(self._count), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """From now."""
        self.at(time.time() + seconds, action)

    def run_due(self) -> None:
        """All that is due by now."""
        now = time.time()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()

    def wait_s(self, most: float) -> float:
        """How long until the next one."""
        return min(most, max(0.0, self._heap[0][0] - time.time())) if self._heap else most
