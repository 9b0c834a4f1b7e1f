"""The commands that only show, as a user sees them: `list`, `info`, `tasks` and the help."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from tests.cli_helpers import (
    Result,
    Terminal,
    cli,
    ended,
    install,
    install_tasks,
    started,
    words,
)
from tests.helpers.processes import is_alive, pid_in

GOOD = """
    from pathlib import Path
    Path(__file__).with_suffix(".imported").touch()

    from typing import Literal
    from fractal_backends import Backend, Options

    class HpcOptions(Options):
        queue: Literal["short", "long"] = "short"
        \"\"\"Where the units wait.\"\"\"
        hours: float | None = None
        \"\"\"Time limit of a unit.\"\"\"

    class Hpc(Backend):
        name = "hpc"
        interface_version = 1
        description = "The cluster downstairs"
        options_model = HpcOptions
        capabilities = frozenset({"time_limit", "readopt"})
        config_file_variable = "HPC_CONFIG_FILE"
        arguments = {
            "workflow_dir_remote": "honoured",
            "user_cache_dir": "refused",
            "slurm_user": "ignored",
            "slurm_account": "honoured",
            "worker_init": "honoured",
        }

        def open(self, run):
            raise NotImplementedError
"""
OTHER = """
    from pathlib import Path
    Path(__file__).with_suffix(".imported").touch()
    raise RuntimeError("imported")
"""


def imported(site: Path) -> set[str]:
    """The modules on a site that somebody imported."""
    return {path.stem for path in site.glob("*.imported")}


@pytest.fixture(scope="module")
def site_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "hpc-plugin", {"hpc": "hpc_module:Hpc"}, "1.5", hpc_module=GOOD)
    install(folder, "one-cloud", {"cloud": "one_module:Cloud"}, "0.1", one_module=OTHER)
    install(folder, "two-clouds", {"cloud": "two_module:Cloud"}, "2.0", two_module=OTHER)
    install(folder, "crooked", {"crooked": "a file.py"}, "3.1")
    install(folder, "grumpy", {"grumpy": "grumpy_module:Grumpy"}, "4.0", grumpy_module=OTHER)
    return folder


@pytest.fixture
def site(site_of_all: Path) -> Path:
    """A folder with plugins, none of which was imported yet."""
    for path in site_of_all.glob("*.imported"):
        path.unlink()
    return site_of_all


# list


def test_a_listing_shows_what_is_installed_and_imports_nothing(site: Path) -> None:
    result = cli("list", cwd=site, PYTHONPATH=site)
    assert (result.code, result.err) == (0, "")
    heading, _line, *rows = result.rows()
    assert heading == ["Name", "Distribution", "Version", "State"]
    assert [row for row in rows if not row[1].startswith("fractal-backends-")] == [
        ["cloud", "one-cloud", "0.1", "duplicate"],
        ["cloud", "two-clouds", "2.0", "duplicate"],
        ["crooked", "crooked", "3.1", "malformed"],
        ["grumpy", "grumpy", "4.0", "installed"],
        ["hpc", "hpc-plugin", "1.5", "installed"],
    ]
    assert ["local", "fractal-backends-local"] in [row[:2] for row in rows]
    assert imported(site) == set()


def test_a_listing_as_json_is_for_scripts(site: Path) -> None:
    result = cli("list", "--json", cwd=site, PYTHONPATH=site)
    assert (result.code, result.err) == (0, "")
    listed = json.loads(result.out)
    assert {
        "name": "hpc",
        "distribution": "hpc-plugin",
        "version": "1.5",
        "entry_point": "hpc_module:Hpc",
        "state": "installed",
    } in listed
    assert [each["state"] for each in listed if each["name"] in ("cloud", "crooked")] == [
        "duplicate",
        "duplicate",
        "malformed",
    ]
    assert imported(site) == set()


def test_without_any_backend_a_listing_tells_how_to_get_one(tmp_path: Path) -> None:
    """In an environment that has the core and what it needs, but no backend."""
    for path in map(Path, sys.path):
        for entry in path.glob("*") if path.name == "site-packages" else ():
            if not entry.name.startswith("fractal_backends"):
                (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "fractal_backends").symlink_to(Path(__file__).parents[1] / "fractal_backends")
    without_site = [sys.executable, "-S"]
    listing = cli("list", cwd=tmp_path, before=without_site, PYTHONPATH=tmp_path)
    assert (listing.code, listing.err) == (0, "")
    assert "No backend is installed" in listing.out
    assert "pip install fractal-backends-local" in listing.out

    missing = cli("run", "workflow.json", cwd=tmp_path, before=without_site, PYTHONPATH=tmp_path)
    assert (missing.code, missing.out) == (2, "")
    assert "There is no backend 'local'. Installed: none." in missing.err
    assert "pip install fractal-backends-local" in missing.err


# list --check

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


# info


def test_info_shows_what_a_backend_can_do(site: Path) -> None:
    result = cli("info", "hpc", cwd=site, PYTHONPATH=site)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("hpc: The cluster downstairs\n")
    rows = {row[0]: row[1:] for row in result.rows()}
    assert rows["distribution"] == ["hpc-plugin 1.5"]
    assert rows["interface version"] == ["1"]
    assert rows["capabilities"] == ["account, readopt, remote_dir, time_limit, worker_init"]
    assert rows["user_cache_dir"] == ["refused"]
    assert rows["slurm_user"] == ["ignored"]
    assert rows["worker_init"] == ["honoured"]
    assert rows["configuration file"] == ["named by HPC_CONFIG_FILE"]
    assert rows["Name"] == ["Type", "Default", "Meaning"]
    assert rows["queue"] == ["'short'/'long'", '"short"', "Where the units wait."]
    assert rows["hours"] == ["number", "not set", "Time limit of a unit."]


def test_info_imports_that_one_plugin_only(site: Path) -> None:
    result = cli("info", "hpc", "--json", cwd=site, PYTHONPATH=site)
    assert (result.code, result.err) == (0, "")
    assert imported(site) == {"hpc_module"}
    about = json.loads(result.out)
    assert about["capabilities"] == ["account", "readopt", "remote_dir", "time_limit", "worker_init"]
    assert about["arguments"]["workflow_dir_remote"] == "honoured"
    assert about["options"] == {
        "queue": {"type": "'short'/'long'", "default": "short", "description": "Where the units wait."},
        "hours": {"type": "number", "default": None, "description": "Time limit of a unit."},
    }


def test_info_on_the_local_backend_shows_its_options(tmp_path: Path) -> None:
    result = cli("info", "local", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    rows = {row[0]: row[1:] for row in result.rows()}
    assert rows["workflow_dir_remote"] == ["refused"]
    assert rows["user_cache_dir"] == ["honoured"]
    assert rows["slurm_user"] == rows["slurm_account"] == rows["worker_init"] == ["ignored"]
    assert rows["parallel_tasks_per_job"][0].startswith("integer")
    assert rows["cpus_per_task"][:2] == ["integer > 0", "1"]
    assert rows["configuration file"] == ["named by FRACTAL_LOCAL_CONFIG_FILE"]


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("hcp", ["There is no backend 'hcp'", "Installed: ", "local", "Did you mean 'hpc'?"]),
        ("cloud", ["more than one distribution", "one-cloud 0.1 and two-clouds 2.0", "Uninstall"]),
        ("crooked", ["crooked 3.1", "'a file.py'", "'module:attribute'"]),
        ("grumpy", ["grumpy 4.0", "grumpy_module:Grumpy", "cannot be loaded: RuntimeError: imported"]),
    ],
)
def test_info_tells_why_a_backend_cannot_be_had(site: Path, name: str, reasons: list[str]) -> None:
    result = cli("info", name, cwd=site, PYTHONPATH=site)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert [reason for reason in reasons if reason not in result.err] == [], result.err


# tasks

SEGMENT = {
    "name": "Segment Cells",
    "executable_non_parallel": "task.py",
    "executable_parallel": "task.py",
    "input_types": {"is_3D": True},
    "output_types": {"segmented": True, "raw": False},
}


@pytest.fixture(scope="module")
def task_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a long name, as an environment's may be, that has task packages."""
    folder = tmp_path_factory.mktemp("a_site_whose_path_is_far_longer_than_what_a_line_of_a_terminal_holds")
    convert = {"name": "Convert", "type": "converter_non_parallel", "executable_non_parallel": "task.py"}
    broken = {"name": "Broken", "executable_parallel": "absent.py"}
    install_tasks(folder, "fractal-cells", "2.1", [convert, SEGMENT, broken])
    return folder


@pytest.fixture(scope="module")
def found(task_site: Path) -> Result:
    return cli("tasks", cwd=task_site, PYTHONPATH=task_site)


def test_tasks_shows_what_is_in_this_environment(found: Result) -> None:
    assert (found.code, found.err) == (0, "")
    rows = found.rows()
    assert ["Package", "Version", "Task", "Type", "Input types", "Output types"] in rows
    assert ["fractal-cells", "2.1", "Convert", "converter_non_parallel"] in rows
    assert [
        "fractal-cells",
        "2.1",
        "Segment Cells",
        "compound",
        "is_3D=true",
        "segmented=true, raw=false",
    ] in rows


def test_tasks_tells_what_is_wrong_with_a_package_in_words_that_can_be_copied(
    found: Result, task_site: Path
) -> None:
    assert f"executable {task_site}/fractal_cells/absent.py is not there" in found.out


def test_tasks_as_json_is_for_scripts(task_site: Path) -> None:
    result = cli("tasks", sys.executable, "--json", cwd=task_site, PYTHONPATH=task_site)
    assert (result.code, result.err) == (0, "")
    (found,) = json.loads(result.out)
    assert found["environment"] == found["interpreter"] == sys.executable
    segment = next(task for task in found["tasks"] if task["name"] == "Segment Cells")
    assert (segment["package"], segment["version"], segment["type"]) == ("fractal-cells", "2.1", "compound")
    assert segment["output_types"] == {"segmented": True, "raw": False}
    assert str(task_site / "fractal_cells" / "task.py") in segment["command_parallel"]
    assert [problem["pkg_name"] for problem in found["problems"]] == ["fractal-cells"]


def test_tasks_of_several_environments_are_kept_apart(task_site: Path, tmp_path: Path) -> None:
    """Their names are long, and must not be taken for markup."""
    environments = []
    for name, more in (("new", f"export PYTHONPATH={task_site}"), ("old", "unset PYTHONPATH")):
        python = tmp_path / f"the [{name}] one of the two, which is here for comparison" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\n{more}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        environments.append(python.parents[1])
    result = cli("tasks", *environments, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    new, old = (f"{environment}/bin/python" for environment in environments)
    assert new in result.out
    assert f"{old}: no Fractal tasks\n" in result.out
    assert result.out.index(new) < result.out.index("Segment Cells") < result.out.index(old)


def test_tasks_tells_of_every_environment_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho this is no python >&2\nexit 3\n")
    fails.chmod(0o755)
    result = cli("tasks", "nowhere", "folder", "./fails", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert "nowhere: no such folder or interpreter" in result.err
    assert "folder: no interpreter that can be run" in result.err
    assert re.search("fails.*exit code 3.*this is no python", result.err)


# Help, and what it costs


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    result = cli(cwd=tmp_path)
    assert result.code == 2
    for command in ("list", "info", "tasks", "run"):
        assert re.search(rf"^│ {command} ", result.out + result.err, re.MULTILINE)


def test_the_help_of_run_has_every_option_and_examples(tmp_path: Path) -> None:
    result = cli("run", "--help", cwd=tmp_path)
    assert result.code == 0
    text = words(result.out)
    for option in (
        *("--dataset", "--zarr-dir", "--backend", "--run-dir", "--task-env", "--first-task", "--last-task"),
        *("--option", "--set", "--no-check", "--dry-run"),
    ):
        assert f" {option} " in text
    assert "fractal-backends run workflow.json --zarr-dir zarr --task-env venv" in text
    assert "0 done, 1 a task or the run failed, 2 wrong input, 130 interrupted" in text


_HEAVY = ("fractal_backends.engine", "fractal_backends.execution", "fractal_backends_local", "jsonschema")


@pytest.mark.parametrize("args", ["--help", "run --help", "list"])
def test_showing_imports_no_plugin_and_not_the_engine(site: Path, args: str) -> None:
    importing = [sys.executable, "-X", "importtime"]
    result = cli(*args.split(), cwd=site, before=importing, PYTHONPATH=site)
    assert result.code == 0
    modules = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "fractal_backends.cli.app" in modules
    assert [module for module in sorted(modules) if module.startswith(_HEAVY)] == []
    assert imported(site) == set()


def test_a_command_with_a_typo_is_corrected(tmp_path: Path) -> None:
    result = cli("lst", cwd=tmp_path)
    assert result.code == 2
    assert "Did you mean 'list'?" in words(result.err)


def test_a_reader_that_stops_early_sees_no_traceback(tmp_path: Path) -> None:
    """As in `fractal-backends list | head -n 0`."""
    with started("list", cwd=tmp_path) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
