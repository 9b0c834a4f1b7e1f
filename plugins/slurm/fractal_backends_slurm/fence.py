"""Keeps units from starting any more, whatever the scheduler knows of their jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable

from .places import Place, PlaceError
from .submission import CANCELLED_FILE, Submission

_SHOWN_SHARE = 10
"""What began just before it was told not to shows within that share of the time that receipts may take."""


class Fence:
    """Files in a submission's folder, which its job script looks for before each unit.

    `patience_s`: for how long it is tried to write one.
    """

    def __init__(self, submission: Submission, place: Place, patience_s: float) -> None:
        self._submission = submission
        self._place = place
        self._patience_s = patience_s
        self._wanted: dict[str, None] = {}
        self._since: dict[str, float] = {}
        """Units that are not to start, by label, and when that was first tried, on the monotonic clock."""
        self.failed: set[str] = set()
        """Those of them whose file cannot be written: they may still start."""

    def __contains__(self, label: object) -> bool:
        """Whether it is tried to keep a unit from starting."""
        return label in self._since

    def has_held(self, label: str) -> bool:
        """Whether a unit that has not started by now never will, or all was tried; else it is to be."""
        is_there = label in self._since and label not in self.failed
        if not is_there:
            self._wanted[label] = None
        patience_s = self._patience_s / _SHOWN_SHARE if is_there else self._patience_s
        return label in self._since and time.monotonic() - self._since[label] > patience_s

    def put(self) -> None:
        """Write the files that were found to be needed."""
        labels, self._wanted = list(self._wanted), {}
        if not labels:
            return
        for label in labels:
            self._since.setdefault(label, time.monotonic())
        if self._write(f"{label}.{CANCELLED_FILE}" for label in labels):
            self.failed.difference_update(labels)
        else:
            self.failed.update(labels)

    def close(self, left: Iterable[str]) -> None:
        """None of the units that are left starts, nor any other of the submission, unless another runner may
        have those. It is tried once: where that fails, their logs still keep them from starting twice."""
        if self._submission.adopted:
            self._write(f"{label}.{CANCELLED_FILE}" for label in left)
        else:
            self._write([CANCELLED_FILE])

    def clear(self) -> None:
        """Nothing is submitted again: what was kept from starting is over."""
        self._since.clear()

    def _write(self, names: Iterable[str]) -> bool:
        try:
            self._place.put(self._submission.folder, dict.fromkeys(names, b""), [])
        except (PlaceError, OSError):
            return False
        return True
