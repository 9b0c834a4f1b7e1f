"""Awaits runs of the backend under test, as a server would, and tells how they ended.

It is told what to do by lines of JSON on a socket, and is a process of its own, so that a backend that hangs,
or takes the process with it, harms the suite no more than any other failure.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import dataclasses
import faulthandler
import functools
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Json = dict[str, Any]

_LINE_LIMIT = 1 << 28
_TICK_S = 0.02
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


class Clock:
    """`time.time`, with what the suite adds to it."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.offset_s


class _Log(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Runner:
    """Serves one connection."""

    def __init__(self, backend: str, options: Json, clock: Clock) -> None:
        self._backend = backend
        self._options = options
        self._clock = clock
        self._objects: dict[str, Any] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._together: list[Json] = []
        """Requests that wait for others, to be performed with them."""

    async def serve(self, connection: socket.socket) -> None:
        """Do as told until the connection ends."""
        self._loop = asyncio.get_running_loop()
        reader, self._writer = await asyncio.open_connection(sock=connection, limit=_LINE_LIMIT)
        try:
            while line := await reader.readline():
                self._obey(json.loads(line))
        finally:
            self._writer.close()

    def _obey(self, request: Json) -> None:
        key = request["run"]
        match request["do"]:
            case "start" if "together" in request:
                self._gather(request)
            case "start":
                self._tasks[key] = asyncio.create_task(self._perform(request))
            case "cancel":
                self._loop.call_soon(self._tasks[key].cancel)  # after its first step: it has to answer
            case "adopt":
                self._tasks[key] = asyncio.create_task(self._adopt(request))
            case "clock":
                self._clock.offset_s = request["offset_s"]
                self._say(key, ended={})
            case "state":
                self._say(key, ended={"result": _state(), "error": None})

    def _gather(self, request: Json) -> None:
        """Perform so many runs together, once they have come: on an event loop of their own, in a thread."""
        self._together.append(request)
        if len(self._together) < request["together"]:
            return
        requests, self._together = self._together, []

        async def perform() -> None:
            await asyncio.gather(*map(self._perform, requests))

        self._tasks[request["run"]] = asyncio.create_task(asyncio.to_thread(asyncio.run, perform()))

    def _say(self, key: str, **answer: Any) -> None:
        """May be called from any thread."""
        line = json.dumps({"run": key, **answer}).encode() + b"\n"
        self._loop.call_soon_threadsafe(self._writer.write, line)

    def _tell(self, key: str, event: Any) -> None:
        self._say(key, event=_event_as_json(event))

    def _object(self, request: Json) -> Any:
        """The backend object that the request names, or a new one."""
        from ..registry import get_backend

        name = request.get("object")
        if name in self._objects:
            return self._objects[name]
        observers = (
            [_observer(functools.partial(self._tell, request["run"]))] if request.get("observe") else []
        )
        options = {**self._options, **request.get("options", {})}
        backend = get_backend(self._backend, options=options, observers=observers)
        if name is not None:
            self._objects[name] = backend
        return backend

    async def _perform(self, request: Json) -> None:
        answer: Json = dict.fromkeys(("result", "error", "not_json"))
        answer |= {"loop_gap_s": 0.0, "input_changed": False}
        log, result = _Log(), None
        logger = logging.getLogger(request["arguments"].get("logger_name"))
        logger.addHandler(log)
        logger.setLevel(logging.DEBUG)
        try:
            given = _arguments(request)
            before = copy.deepcopy(given)
            backend = self._object(request)  # its first import takes long, and is not the run's
            watch = _LoopWatch()
            try:
                result = await backend.process_workflow(**given)
            finally:
                answer |= {"loop_gap_s": watch.stop(), "input_changed": given != before}
            answer["result"], answer["not_json"] = _as_json(result)
        except BaseException as error:
            answer["error"] = _describe(error)
        finally:
            logger.removeHandler(log)
        if request.get("spoil") and result is not None:
            _spoil(result)
        self._say(request["run"], ended={**answer, "log": log.lines})

    async def _adopt(self, request: Json) -> None:
        """Give units to an executor of the backend, with no run around them."""
        answer: Json = {"result": None, "error": None}
        try:
            await asyncio.to_thread(self._execute, request)
        except Exception as error:
            answer["error"] = _describe(error)
        self._say(request["run"], ended=answer)

    def _execute(self, request: Json) -> None:
        from ..interface import RunInfo, Unit

        backend = self._object(request)
        fields = {**request["info"], "id": request["run"]}
        for name in ("workflow_dir_local", "workflow_dir_remote"):
            fields[name] = Path(fields[name])
        units = [Unit(**{**unit, "task_command": tuple(unit["task_command"])}) for unit in request["units"]]
        with backend.open(RunInfo(**fields)) as executor:
            for event in executor.run(units, backend.options_model(**backend.options)):
                self._tell(request["run"], event)


def _as_json(result: Any) -> tuple[Any, str | None]:
    """A result as it comes out of JSON, or why it does not get there."""
    try:
        return json.loads(json.dumps(result, allow_nan=False)), None
    except (TypeError, ValueError, RecursionError) as error:
        return None, f"{error}; the result: {result!r:.2000}"


def _state() -> Json:
    """What all of a process shares, and a server relies upon."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "working folder": os.getcwd(),
        "umask": oct(umask),
        "environment": dict(os.environ),
        "signal handlers": {str(number): id(signal.getsignal(number)) for number in signal.valid_signals()},
        "handlers of the root logger": [type(handler).__name__ for handler in logging.getLogger().handlers],
    }


def _observer(tell: Any) -> object:
    from ..hooks import hookimpl

    class Observer:
        @hookimpl
        def unit_changed(self, event: Any) -> None:
            tell(event)

    return Observer()


def _event_as_json(event: Any) -> Json:
    outcome = event.outcome
    return {
        "label": event.unit.label,
        "state": str(event.state),
        "cause": str(outcome.cause) if outcome else None,
        "exit_code": outcome.exit_code if outcome else None,
        "info": outcome.info if outcome else event.info,
        "handle": event.handle,
        "unit": {**dataclasses.asdict(event.unit), "env": dict(event.unit.env)},
    }


class _LoopWatch:
    """Notes for how long other coroutines could not go on."""

    def __init__(self) -> None:
        self._worst_s = 0.0
        self._last = time.monotonic()
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._note()

    def _note(self) -> None:
        now = time.monotonic()
        self._worst_s = max(self._worst_s, now - self._last - _TICK_S)
        self._last = now

    def stop(self) -> float:
        """The longest time, in seconds."""
        self._note()
        self._task.cancel()
        return self._worst_s


def _arguments(request: Json) -> Json:
    """The arguments of `process_workflow`, workflow and dataset in the form that is asked for."""
    from ..models import Dataset, Workflow, load

    given = dict(request["arguments"])
    for name in ("workflow_dir_local", "workflow_dir_remote"):
        if given.get(name) is not None:
            given[name] = Path(given[name])
    match request.get("form"):
        case "models":
            given["workflow"] = load(Workflow, given["workflow"])
            given["dataset"] = load(Dataset, given["dataset"])
        case "objects":
            tasks = [
                SimpleNamespace(**{**task, "task": SimpleNamespace(**task["task"])})
                for task in given["workflow"]["task_list"]
            ]
            given["workflow"] = SimpleNamespace(task_list=tasks)
            given["dataset"] = SimpleNamespace(**given["dataset"])
    return given


def _spoil(result: Any) -> None:
    """What a caller might do with a result that is its own."""
    for image in result["images"]:
        image["attributes"]["spoilt"] = True
        image["types"]["spoilt"] = True
    result["images"].append({"zarr_url": "/spoilt"})
    result["filters"]["types"]["spoilt"] = True
    result["history"].clear()


_FIELDS = (
    *("workflow_task_id", "workflow_task_order", "task_name"),
    *("info", "cmd_file", "stdout_file", "stderr_file"),
)


def _describe(error: BaseException) -> Json:
    found = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
    assemble = getattr(error, "assemble_error", None)
    return {
        "types": [kind.__name__ for kind in type(error).__mro__],
        "message": str(error),
        "assembled": assemble() if callable(assemble) else None,
        **{name: value if isinstance(value, int | None) else str(value) for name, value in found.items()},
    }


def serve_in_thread(backend: str, options: Json, connection: socket.socket) -> threading.Thread:
    """A runner in this process, for a debugger: what hangs cannot be ended."""
    runner = Runner(backend, options, Clock())
    thread = threading.Thread(
        target=lambda: asyncio.run(runner.serve(connection)), name="conformance-runner", daemon=True
    )
    thread.start()
    return thread


def drop_privileges() -> None:
    """Without root's right to write where a file's mode forbids it; takes effect at the next exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def main(settings: Json) -> None:
    """Serve the connection whose descriptor the settings name."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    clock = Clock()
    time.time = clock
    runner = Runner(settings["backend"], settings["options"], clock)
    for name, limit in settings.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if "umask" in settings:
        os.umask(settings["umask"])
    for name in settings.get("ignored_signals", ()):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    blocked = [signal.Signals[name] for name in settings.get("blocked_signals", ())]
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    connection = socket.socket(fileno=settings["connection"])
    connection.set_inheritable(False)  # a unit that has it would have been given it by the suite
    asyncio.run(runner.serve(connection))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.pop("unprivileged", False):
        drop_privileges()
        os.execv(
            sys.executable, [sys.executable, "-m", "fractal_backends.conformance.runner", json.dumps(given)]
        )
    main(given)
