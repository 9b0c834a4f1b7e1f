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
        self._tried_since: dict[str, float] = {}
        """Units that are not to start, by label, and when that was first tried, on the monotonic clock."""
        self._held_since: dict[str, float] = {}
        """Since when their files are there."""

    def __contains__(self, label: object) -> bool:
        """Whether it is tried to keep a unit from starting."""
        return label in self._tried_since

    def has_failed(self, label: str) -> bool:
        """Whether the file of a unit cannot be written: it may still start."""
        return label in self._tried_since and label not in self._held_since

    def has_held(self, label: str, at: float) -> bool:
        """Whether a unit that had not started at that time never will, or all was tried; else it is to be."""
        if label in self._held_since:
            return at - self._held_since[label] > self._patience_s / _SHOWN_SHARE
        self._wanted[label] = None
        return label in self._tried_since and at - self._tried_since[label] > self._patience_s

    def put(self) -> None:
        """Write the files that were found to be needed."""
        labels, self._wanted = list(self._wanted), {}
        if not labels:
            return
        for label in labels:
            self._tried_since.setdefault(label, time.monotonic())
        if self._write(f"{label}.{CANCELLED_FILE}" for label in labels):
            self._held_since.update(dict.fromkeys(labels, time.monotonic()))

    def close(self, left: Iterable[str]) -> None:
        """None of the units that are left starts, nor any other of the submission, unless another runner may
        have those. It is tried once: where that fails, their logs still keep them from starting twice."""
        if self._submission.adopted:
            self._write(f"{label}.{CANCELLED_FILE}" for label in left)
        else:
            self._write([CANCELLED_FILE])

    def clear(self) -> None:
        """Nothing is submitted again: what was kept from starting is over."""
        self._tried_since.clear()

    def _write(self, names: Iterable[str]) -> bool:
        try:
            self._place.put(self._submission.folder, dict.fromkeys(names, b""), [])
        except (PlaceError, OSError):
            return False
        return True
