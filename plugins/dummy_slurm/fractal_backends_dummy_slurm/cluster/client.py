"""A command: hands its words to the controller (srun: to the job's stepd), and prints the answer.

It stands alone, is copied into the controller's folder, and imports little: it starts in some 30 ms, also
where this package's own environment cannot be reached.

    python -I -S client.py FOLDER CONTACT_S COMMAND [WORDS...]

A message is a list of byte strings: their number, then each behind its length.
"""

from __future__ import annotations

import os
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_RETRY_S = 0.05
NO_CONTACT = "Unable to contact slurm controller (connect failure)"
_TIMED_OUT = "Socket timed out on send/recv operation"


def pack(fields: Sequence[bytes]) -> bytes:
    """A message."""
    parts = [len(fields).to_bytes(4, "big")]
    for field in fields:
        parts += [len(field).to_bytes(4, "big"), field]
    return b"".join(parts)


def unpack(data: bytes) -> list[bytes] | None:
    """A whole message, or None if more is to come."""
    if len(data) < 4:
        return None
    place, fields = 4, []
    for _ in range(int.from_bytes(data[:4], "big")):
        start = place + 4
        place = start + int.from_bytes(data[place:start], "big")
        if len(data) < place or start > len(data):
            return None
        fields.append(data[start:place])
    return fields


def receive(end: socket.socket) -> list[bytes]:
    """Wait for a message. Raises ConnectionError where none comes."""
    data = b""
    while (fields := unpack(data)) is None:
        more = end.recv(1 << 16)
        if not more:
            raise ConnectionResetError
        data += more
    return fields


def connect(path: str) -> socket.socket:
    """To a Unix socket whose path may be long."""
    folder = os.open(os.path.dirname(path), os.O_PATH)
    try:
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except OSError:
            end.close()
            raise
        return end
    finally:
        os.close(folder)


def _connect_for(path: str, seconds: float) -> socket.socket | None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return connect(path)
        except OSError:
            if time.monotonic() > deadline:
                return None
        time.sleep(_RETRY_S)


def unreachable(command: str, words: Sequence[str], problem: str) -> tuple[int, bytes, bytes]:
    """What the command says if the controller does not answer: exit code, stdout, stderr."""
    if command == "scontrol" and "ping" in words:
        stars = "*" * 41
        restore = "** RESTORE SLURMCTLD DAEMON TO SERVICE **"
        down = f"Slurmctld(primary) at localhost is DOWN\n{stars}\n{restore}\n{stars}\n"
        return 1, down.encode(), b""
    code = 1
    if command == "sbatch":
        start = (
            "allocation failure" if "--test-only" in words else "sbatch: error: Batch job submission failed"
        )
    elif command == "scancel":
        code = 8
        start = f"scancel: error: Kill job error on job id {words[-1] if words else ''}"
    elif command == "sinfo":
        start = "slurm_load_partitions"
    elif command == "scontrol" and "config" in words:
        start = "slurm_load_ctl_conf error"
    elif command == "sacct":
        start = "sacct: error: Problem talking to the database"
        problem = "Connection refused"
    else:
        start = "slurm_load_jobs error"
    return code, b"", os.fsencode(f"{start}: {problem}\n")


def _read_script(name: bytes) -> list[bytes]:
    """What sbatch is to submit, of a file or, without a name, from stdin. Nothing: there is no such file."""
    if not name:
        return [sys.stdin.buffer.read() if sys.stdin else b""]
    try:
        with open(os.path.join(_cwd(), os.fsdecode(name)), "rb") as file:
            return [file.read()]
    except OSError:
        return []


def request(command: str, words: Sequence[str], script: Sequence[bytes] = ()) -> list[bytes]:
    """What the controller is told."""
    counts = [b"%d" % len(words), b"%d" % len(script)]
    variables = {**_handed_on(command), **os.environb}
    env = [key + b"=" + value for key, value in variables.items()]
    start = [command.encode(), os.fsencode(_cwd()), *counts]
    return [*start, *(os.fsencode(word) for word in words), *script, *env]


def _handed_on(command: str) -> dict[bytes, bytes]:
    """What SLURM puts into the environment of what is to be started."""
    if command not in ("sbatch", "srun"):
        return {}
    umask = os.umask(0)
    os.umask(umask)
    return {b"SLURM_UMASK": b"%04o" % umask}


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _ask(folder: str, contact_s: float, command: str, words: Sequence[str]) -> tuple[int, bytes, bytes]:
    message = pack(request(command, words))
    tries = 0
    while True:
        end = _connect_for(folder + "/controller", contact_s)
        if end is None:
            return unreachable(command, words, NO_CONTACT)
        try:
            end.sendall(message)
            code, out, err, retry = receive(end)
            if code == b"script":
                script = _read_script(out)
                if not script:
                    return 1, b"", b"sbatch: error: Unable to open file " + out + b"\n"
                message = pack(request(command, words, script))
                end.sendall(message)
                code, out, err, retry = receive(end)
        except OSError:
            return unreachable(command, words, NO_CONTACT if command != "sbatch" else _TIMED_OUT)
        finally:
            end.close()
        if code == b"silent":  # the controller does not answer, and the command gives up
            time.sleep(float(retry))
            return unreachable(command, words, _TIMED_OUT)
        if not retry or tries == 15:
            return int(code), out, err
        tries += 1
        if tries == 1:
            sys.stderr.write(
                f"{command}: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            )
            sys.stderr.flush()
        time.sleep(float(retry) * tries)


def _step(words: Sequence[str]) -> tuple[int, bytes, bytes]:
    """Run a step of the job that we are in; the job's stepd starts it on our own stdin, stdout and stderr."""
    path = os.environ.get("DUMMY_SLURM_STEPD")
    try:
        if path is None:
            raise FileNotFoundError
        end = connect(path)
        message = pack(request("srun", words))
        socket.send_fds(end, [message[:1]], [0, 1, 2])
        end.sendall(message[1:])  # the first byte went with the files
        while True:
            code, out, err, more = receive(end)
            if not more:
                return int(code), out, err
            os.write(2, err)
    except OSError:
        return 1, b"", b"srun: error: Unable to create step: Invalid job id specified\n"


def main(folder: str, contact_s: str, command: str, *words: str) -> int:
    """Returns the exit code."""
    if command == "srun":
        code, out, err = _step(words)
    else:
        code, out, err = _ask(folder, float(contact_s), command, words)
    for number, text in ((1, out), (2, err)):
        left = text
        while left:
            left = left[os.write(number, left) :]
    return code


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))
