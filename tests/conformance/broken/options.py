"""Broken in which value of an option counts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend

from fractal_backends.options import merge_options
from tests.conformance.broken import caught_by
from tests.conformance.broken.tools import WithEngine


class _FileAsOptions(LocalBackend):
    """The configuration file is read when the backend is made."""

    def __init__(self, options: Mapping[str, Any] | None = None, observers: Iterable[object] = ()) -> None:
        path = os.environ.get(str(self.config_file_variable))
        self.configured: dict[str, Any] = json.loads(Path(path).read_text()) if path else {}
        super().__init__(self.merged(dict(options or {})), observers)

    def merged(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**self.configured, **given}


@caught_by("EXEC-021", "what the configuration file says counts as if it were given: before a task's meta")
class FileBeforeMeta(_FileAsOptions):
    pass


@caught_by("EXEC-021", "the administrator's file has the last word")
class FileBeforeAll(_FileAsOptions):
    def merged(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, **self.configured}


def _meta_last(model: Any, sources: Any) -> Any:
    *before, meta, given = sources
    return merge_options(model, [*before, given, meta])


@caught_by("EXEC-021", "a task's meta counts before what the backend is given")
class MetaBeforeGiven(WithEngine):
    changes: ClassVar = {"preparation.merge_options": _meta_last}


@caught_by("EXEC-021", "the configuration file is not read")
class FileNotRead(WithEngine):
    changes: ClassVar = {"preparation.config_file_source": lambda backend: []}
