"""`workflow.log`: what the named logger says while a run is under way."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from .folder import LOG_FILE

RunLogger = logging.LoggerAdapter[logging.Logger]

_RUN = "fractal_run"


class _RunLogHandler(logging.FileHandler):
    """Writes the records of one run; others may use the same logger at the same time."""

    def __init__(self, path: Path, run_id: str, level_before: int) -> None:
        self.level_before = level_before
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.addFilter(lambda record: getattr(record, _RUN, run_id) == run_id)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A log that cannot be written must not fill the terminal: the run itself will tell."""


@contextlib.contextmanager
def run_log(folder: Path, logger_name: str, run_id: str) -> Iterator[RunLogger]:
    """The named logger, its records also in the run's `workflow.log` unless a handler does that already."""
    logger = logging.getLogger(logger_name)
    path = folder / LOG_FILE
    adapter = RunLogger(logger, {_RUN: run_id})
    if any(_writes_to(handler, path) for handler in logger.handlers):
        yield adapter
        return
    others = [other for other in logger.handlers if isinstance(other, _RunLogHandler)]
    handler = _RunLogHandler(path, run_id, others[0].level_before if others else logger.level)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield adapter
    finally:
        logger.removeHandler(handler)
        handler.close()
        if not any(isinstance(other, _RunLogHandler) for other in logger.handlers):
            logger.setLevel(handler.level_before)


def _writes_to(handler: logging.Handler, path: Path) -> bool:
    return isinstance(handler, logging.FileHandler) and handler.baseFilename == str(path.absolute())
