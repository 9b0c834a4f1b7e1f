"""`list --check`, as a user sees it: which backends load, and why others do not."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from tests.cli_helpers import GOOD, Result, Terminal, cli, ended, install, started
from tests.helpers.processes import is_alive, pid_in

_NOT_A_BACKEND = "Hpc = 1"
_NOISY = GOOD + '    print("hello from the plugin")\n    print("{\\"reason\\": \\"noise\\"}", end="")\n'
_NOISY_AT_EXIT = GOOD + '    import atexit\n    atexit.register(print, "good bye from the plugin")\n'
CHECKED = {
    "good": (GOOD, None),
    "noisy": (_NOISY, None),
    "noisy-at-exit": (_NOISY_AT_EXIT, None),
    "raises": ("raise ImportError('no such library: libhpc.so')", "no such library: libhpc.so"),
    "exits": ("import sys; sys.exit('good bye')", "good bye"),
    "dies": ("import os; os._exit(3)", "returncode=3"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "returncode=-11"),
    "no-backend": (_NOT_A_BACKEND, "no process_workflow"),
    "no-attribute": ("pass", "Hpc"),
    "no-module": (None, "absent_module"),
    "from-the-future": (GOOD.replace("interface_version = 1", "interface_version = 2"), "version 2"),
    "incomplete": (GOOD.replace("def open", "def open_it"), "lacks open"),
    "orders": ("raise ValueError('\\x1b]0;title\\x07 red \\x1b[31m')", "red"),
}


def install_checked(folder: Path, *names: str) -> Path:
    """A site with a plugin for each of these ways to load, or not."""
    for number, name in enumerate(names):
        source, _ = CHECKED[name]
        module = "absent_module" if source is None else f"plugin_{number}"
        install(folder, f"{name}-plugin", {name: f"{module}:Hpc"}, **({module: source} if source else {}))
    return folder


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, dict[str, Any]]]:
    site = install_checked(tmp_path_factory.mktemp("checked"), *CHECKED)
    for name in ("one-cloud", "two-clouds"):
        install(site, name, {"cloud": f"{name.replace('-', '_')}:Cloud"})
    install(site, "crooked", {"crooked": "a file.py"})
    result = cli("list", "--check", "--json", cwd=site, PYTHONPATH=site)
    return result, {each["distribution"].removesuffix("-plugin"): each for each in json.loads(result.out)}


@pytest.mark.parametrize("name", CHECKED)
def test_checking_tells_which_backends_load_and_why_others_do_not(
    name: str, checked: tuple[Result, dict[str, dict[str, Any]]]
) -> None:
    about, reason = checked[1][name], CHECKED[name][1]
    assert about["state"] == "installed"
    assert about["check"] == ("broken" if reason else "ok"), about["why"]
    assert reason is None or reason in about["why"]


def test_checking_tells_about_duplicate_and_malformed_ones_too(
    checked: tuple[Result, dict[str, dict[str, Any]]],
) -> None:
    result, found = checked
    assert result.code == 1
    for name in ("one-cloud", "two-clouds"):
        assert (found[name]["state"], found[name]["check"]) == ("duplicate", "broken")
        assert "one-cloud 1.0 and two-clouds 1.0" in found[name]["why"]
    assert (found["crooked"]["state"], found["crooked"]["check"]) == ("malformed", "broken")
    assert "module:attribute" in found["crooked"]["why"]
    assert found["fractal-backends-local"]["check"] == "ok"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Result:
    site = install_checked(tmp_path_factory.mktemp("shown"), "noisy", "raises", "crashes", "orders")
    return cli("list", "--check", cwd=site, PYTHONPATH=site)


def test_checking_shows_a_table_and_the_reasons(shown: Result) -> None:
    assert (shown.code, shown.err) == (1, "")
    rows = {row[0]: row for row in shown.rows()}
    assert rows["Name"] == ["Name", "Distribution", "Version", "State", "Check"]
    assert rows["local"][3:] == ["installed", "ok"]
    assert rows["raises"] == ["raises", "raises-plugin", "1.0", "installed", "broken"]
    assert re.search("^raises: .*no such library: libhpc.so$", shown.out, re.MULTILINE)
    assert re.search("^crashes: .*returncode=-11", shown.out, re.MULTILINE)
    assert "Traceback" not in shown.out
    assert "the plugin" not in shown.out


def test_a_reason_gives_the_terminal_no_orders(shown: Result) -> None:
    (reason,) = (line for line in shown.out.splitlines() if line.startswith("orders: "))
    assert " red " in reason
    assert reason.isprintable()


def test_checking_ends_well_if_all_load(tmp_path: Path) -> None:
    install(tmp_path, "hpc-plugin", {"hpc": "hpc_module:Hpc"}, hpc_module=GOOD)
    result = cli("list", "--check", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert {"hpc": "ok", "local": "ok", "slurm": "ok"}.items() <= {
        row[0]: row[4] for row in result.rows()[2:]
    }.items()


_HANGS = """
    import os, signal
    signal.alarm(60)
    open("{folder}/pid.part", "w").write(str(os.getpid()))
    os.rename("{folder}/pid.part", "{folder}/pid")
    while True:
        signal.pause()
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A site with a plugin that never ends to be imported."""
    source = _HANGS.replace("{folder}", str(tmp_path))
    install(tmp_path, "hanging", {"hanging": "hanging:Hpc"}, hanging=source)
    yield tmp_path
    with suppress(ProcessLookupError):
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)


def test_ctrl_c_ends_a_check(hanging: Path) -> None:
    with Terminal("list", "--check", cwd=hanging, PYTHONPATH=hanging) as terminal:
        assert terminal.sees(hanging / "pid")
        terminal.press(b"\x03")
        assert terminal.end() == 130
    assert eventually(lambda: not is_alive(pid_in(hanging / "pid")))
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_check_and_what_it_started(hanging: Path, number: signal.Signals) -> None:
    with started("list", "--check", cwd=hanging, PYTHONPATH=hanging) as process:
        pid = pid_in(hanging / "pid")
        process.send_signal(number)
        result = ended(process)
    assert result.code in (130, -number)
    assert result.err == ""
    assert not is_alive(pid)
