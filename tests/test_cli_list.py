"""The commands that only show, as a user sees them: `list`, `info` and the help."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.cli_helpers import GOOD, cli, install, started, words

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
