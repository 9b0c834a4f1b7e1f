"""A task whose arguments say what it does: `do` is a list of steps, `[name, *values]`.

In a parallel task `do` may also be a mapping from the last part of a `zarr_url` to the steps for that image;
`"*"` stands for all others.

There are hundreds of these, so they start with `python -I -S`, and import what takes longer than the rest
together (json, signal, typing) only where a step needs it. The program needs nothing but Python: it may run
on another machine, as another user.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIFE_S = int(os.environ.get("CONFORMANCE_LIFE_S", "60"))
"""No process that a test starts lives longer, in seconds, whatever goes wrong."""
ARGS_FILE, OUT_FILE = sys.argv[-3], sys.argv[-1]


def write(path: str, data: bytes) -> None:
    with open(path + ".part", "wb") as file:
        file.write(data)
    os.rename(path + ".part", path)  # whoever waits for the file finds it whole


def output(value: object) -> None:
    raw(_json(value))


def _json(value: object) -> str:
    """As `json.dumps`; to import that takes as long as all else."""
    from _json import encode_basestring_ascii as quoted

    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float() if value - value == 0:  # is finite
            return repr(value)
        case str():
            return quoted(value)
        case list():
            return f"[{', '.join(map(_json, value))}]"
        case dict():
            return f"{{{', '.join(f'{quoted(name)}: {_json(item)}' for name, item in value.items())}}}"
        case _:
            import json

            return json.dumps(value)


def raw(text: str) -> None:
    with open(OUT_FILE, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def raw_bytes(numbers: list[int]) -> None:
    with open(OUT_FILE, "wb") as file:
        file.write(bytes(numbers))


def fill_output(start: str, megabytes: int, end: str = "") -> None:
    with open(OUT_FILE, "w") as file:
        file.write(start)
        for _ in range(megabytes):
            file.write("x" * (1 << 20))
        file.write(end)


def print_out(text: str) -> None:
    os.write(1, text.encode())


def print_err(text: str) -> None:
    os.write(2, text.encode())


def fill_log(kilobytes: int) -> None:
    for _ in range(kilobytes):
        os.write(1, b"x" * 1024)


def print_bytes(numbers: list[int], times: int = 1) -> None:
    for _ in range(times):
        os.write(1, bytes(numbers))


def exit_with(code: int) -> None:
    os._exit(code)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def touch(path: str) -> None:
    write(path, b"")


def append(path: str, line: str) -> None:
    """A line at the end of a file that many units write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def alive(path: str) -> None:
    """Hold a lock for as long as this process, or one that descends from it, is alive."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(fd, True)
    fcntl.flock(fd, fcntl.LOCK_SH)


def wait(path: str) -> None:
    end = time.monotonic() + LIFE_S
    while not os.path.exists(path):
        if time.monotonic() > end:
            sys.exit(f"{path} never came")
        time.sleep(0.005)


def meet(folder: str, name: str, count: int) -> None:
    """Wait until this many units are here."""
    touch(f"{folder}/{name}")
    end = time.monotonic() + LIFE_S
    while len([entry for entry in os.listdir(folder) if not entry.endswith(".part")]) < count:
        if time.monotonic() > end:
            sys.exit(f"fewer than {count} units came to {folder}")
        time.sleep(0.005)


def gather(folder: str, count: int) -> None:
    """Wait until this many units are here, whoever they are."""
    meet(folder, os.urandom(8).hex(), count)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def print_args_file() -> None:
    """Print where the arguments are."""
    print_out(ARGS_FILE)


def remove(path: str) -> None:
    os.unlink(path)


def describe(path: str) -> None:
    """Write down what this process finds around it."""
    import json

    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "user": os.getuid(),
        "machine": machine(),
        "argv": sys.argv[1:],
        "folder": os.getcwd(),
        "folder_listed": len(os.listdir(".")),
        "environment": dict(os.environ),
        "stdin": os.read(0, 10).decode(errors="replace"),
        "descriptors": {name: os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()},
        "signals": _signals(),
    }
    write(path, json.dumps(found).encode(errors="surrogateescape"))


def machine() -> str:
    """Names the machine, and the part of it in which process ids mean the same."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip() + " " + os.readlink("/proc/self/ns/pid")


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:  # the one that listed the folder
            continue
        found.append(name)
    return found


def _signals() -> dict[str, str]:
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith(("SigBlk", "SigIgn"))]
    return {name.rstrip(":"): mask for name, mask in lines}


def take_memory(megabytes: int) -> None:
    """Memory that is really there, little by little, for as long as the process lives."""
    for _ in range(megabytes):
        _taken.append(bytearray(os.urandom(1 << 10) * (1 << 10)))


_taken: list[bytearray] = []


def hang() -> None:
    import signal

    signal.alarm(LIFE_S)
    while True:
        signal.pause()


def ignore_term() -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def pid(path: str) -> None:
    write(path, str(os.getpid()).encode())


def argv(path: str) -> None:
    import json

    write(path, json.dumps(sys.argv[1:]).encode())


def record(folder: str) -> None:
    """Keep this unit's arguments, in a file for each time that it runs."""
    os.makedirs(folder, exist_ok=True)
    run = f"{os.path.basename(ARGS_FILE)}-{time.time_ns()}-{os.getpid()}"
    copy(ARGS_FILE, f"{folder}/{run}")


def outlive(path: str) -> None:
    """Wait until all that took the lock (see `alive`) has ended."""
    import fcntl

    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def copy(source: str, target: str) -> None:
    with open(source, "rb") as file:
        write(target, file.read())


def must_not_exist(path: str) -> None:
    if os.path.exists(path):
        sys.exit(f"{path} exists")


def no_output_file() -> None:
    must_not_exist(OUT_FILE)


def output_file_is(what: str) -> None:
    _make(OUT_FILE, what)


def turn_into(path: str, what: str) -> None:
    """Put something else in the place of a file."""
    os.unlink(path)
    _make(path, what)


def _make(path: str, what: str) -> None:
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        os.mkdir(path)
    elif what == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 36)
    else:
        os.symlink("/dev/zero", path)


def must_have_ended(path: str) -> None:
    with open(path) as file:
        process = int(file.read())
    try:
        with open(f"/proc/{process}/stat") as file:
            state = file.read().rpartition(") ")[2][0]
    except OSError:
        return
    if state not in "ZX":
        sys.exit(f"process {process} is alive")


def _be_a_daemon(path: str) -> None:
    pid(path)
    hang()


def _fork_and_wait_for(path: str, work: Callable[[], None]) -> None:
    if os.fork() == 0:
        try:
            work()
        finally:
            os._exit(0)
    wait(path)


def child(path: str) -> None:
    """A child in the unit's own process group."""
    _fork_and_wait_for(path, lambda: _be_a_daemon(path))


def session(path: str) -> None:
    """A child in a session of its own."""

    def work() -> None:
        os.setsid()
        _be_a_daemon(path)

    _fork_and_wait_for(path, work)


def stubborn(path: str) -> None:
    """A child in a session of its own that will not go when asked to."""

    def work() -> None:
        os.setsid()
        ignore_term()
        _be_a_daemon(path)

    _fork_and_wait_for(path, work)


def double_fork(path: str) -> None:
    """A daemon as in the textbooks: its parent is gone."""

    def work() -> None:
        os.setsid()
        if os.fork() == 0:
            _be_a_daemon(path)

    _fork_and_wait_for(path, work)
    os.wait()


def no_environment(path: str) -> None:
    """A daemon that nothing in its environment tells to be ours."""
    code = (
        "import os, signal, sys; path = sys.argv[1]; signal.alarm(int(sys.argv[2]))\n"
        "open(path + '.part', 'w').write(str(os.getpid())); os.rename(path + '.part', path)\n"
        "while True: signal.pause()"
    )

    def work() -> None:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code, path, str(LIFE_S)], {})

    _fork_and_wait_for(path, work)
    os.wait()


def write_until_killed(path: str) -> None:
    """Print and write the output over and over."""
    touch(path)
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        raw('{"image_list_updates": []}' * 1000)
        print_out("and on and on\n")


def main() -> None:
    with open(ARGS_FILE) as file:
        arguments = eval(file.read(), {"true": True, "false": False, "null": None})  # JSON, but for these
    steps = arguments.get("do") or arguments.get("init_args", {}).get("do", [])
    if isinstance(steps, dict):
        name = arguments["zarr_url"].rpartition("/")[2]
        steps = steps.get(name, steps.get("*", []))
    for name, *values in steps:
        globals()[name](*values)


main()
