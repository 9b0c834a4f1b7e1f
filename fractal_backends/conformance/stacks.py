"""Where a process's threads are, in few lines: what `faulthandler` writes, without what says nothing."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

_FRAME = re.compile(r'^ +File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x.*$", re.MULTILINE)
_FRAMES = 12
_OF_PYTHON = (f"{sysconfig.get_path('stdlib')}/", "<frozen ")
_OF_PACKAGES = ("/site-packages/", "/dist-packages/")
_OF_THE_SUITE = str(Path(__file__).with_name("runner.py"))


def is_whole(dump: str) -> bool:
    """Whether the main thread, which comes last, is there to its outermost frame."""
    return "_run_module_as_main" in dump


def told(dump: str) -> str:
    """The threads of a dump that do more than to wait for the event loop's next event, equal ones once."""
    threads = Counter(frames for frames in map(_frames, _THREAD.split(dump)[1:]) if frames)
    if not threads:
        return "its threads all wait for something to happen"
    return "\n".join(_thread(frames, count) for frames, count in threads.items())


def _frames(thread: str) -> tuple[str, ...]:
    """The innermost frame, and those below it that are not Python's own or the suite's."""
    found = list(_FRAME.finditer(thread))
    ours = [frame for frame in found if not _is_foreign(frame["file"])]
    if not ours:
        is_the_event_loop = any(frame["file"] == _OF_THE_SUITE for frame in found)
        ours = [] if is_the_event_loop else found[:1]
    shown = ours if not ours or found[0] in ours else [found[0], *ours]
    return tuple(f"{frame['file']}, line {frame['line']} in {frame['function']}" for frame in shown)


def _is_foreign(file: str) -> bool:
    if file == _OF_THE_SUITE:
        return True
    return file.startswith(_OF_PYTHON) and not any(part in file for part in _OF_PACKAGES)


def _thread(frames: tuple[str, ...], count: int) -> str:
    left_out = len(frames) - _FRAMES
    more = [f"  and {left_out} more"] if left_out > 0 else []
    what = "a thread is in" if count == 1 else f"{count} threads are in"
    return "\n".join([what, *(f"  {frame}" for frame in frames[:_FRAMES]), *more])
