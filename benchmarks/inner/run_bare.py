"""The least that any runner must do for a parallel task: arguments, processes, logs, outputs."""

from __future__ import annotations

import json
import os
import sys
import time

IN_FLIGHT = 2


def main() -> None:
    request = json.load(sys.stdin)
    command, urls, folder = request["command"], request["zarr_urls"], request["folder"]
    begin = time.perf_counter()
    outputs: dict[int, str] = {}
    os.makedirs(folder)
    for number, url in enumerate(urls):
        stem = f"{folder}/0_par_{number:07d}"
        with open(f"{stem}.args.json", "w") as file:
            file.write(f'{{\n  "zarr_url": {json.dumps(url)}\n}}\n')
        if len(outputs) == IN_FLIGHT:
            _wait(outputs)
        pid = os.posix_spawn(
            command,
            [command, "--args-json", f"{stem}.args.json", "--out-json", f"{stem}.metadiff.json"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, f"{stem}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        outputs[pid] = f"{stem}.metadiff.json"
    while outputs:
        _wait(outputs)
    json.dump({"wall_s": time.perf_counter() - begin}, sys.stdout)


def _wait(outputs: dict[int, str]) -> None:
    pid, status = os.waitpid(-1, 0)
    assert status == 0
    try:
        with open(outputs.pop(pid)) as file:
            json.load(file)
    except FileNotFoundError:
        pass


if __name__ == "__main__":
    main()
