"""`workflow.log`: what the named logger says while a run is under way."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ..interface import RUN_ID, RunInfo
from .folder import LOG_FILE


class _RunLogHandler(logging.FileHandler):
    """Writes the records of one run; others may use the same logger at the same time."""

    def __init__(self, path: Path, run_id: str, level_before: int) -> None:
        self.level_before = level_before
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.addFilter(lambda record: getattr(record, RUN_ID, run_id) == run_id)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A log that cannot be written must not fill the terminal: the run itself will tell."""

    def close(self) -> None:
        """Close the file, also on a disk that has no room for what is left to write."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def run_log(run: RunInfo) -> Iterator[None]:
    """The run's logger writes to the run's `workflow.log`, unless one of its handlers does that already."""
    logger = logging.getLogger(run.logger_name)
    path = run.workflow_dir_local / LOG_FILE
    if any(_writes_to(handler, path) for handler in logger.handlers):
        yield
        return
    others = [other for other in logger.handlers if isinstance(other, _RunLogHandler)]
    handler = _RunLogHandler(path, run.id, others[0].level_before if others else logger.level)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        if not any(isinstance(other, _RunLogHandler) for other in logger.handlers):
            logger.setLevel(handler.level_before)


def _writes_to(handler: logging.Handler, path: Path) -> bool:
    return isinstance(handler, logging.FileHandler) and handler.baseFilename == str(path.absolute())
