"""`new`, as a user sees it: what is made, that it works, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli_helpers import DEADLINE_S, Result, cli, environment, install, read_json, snapshot, write_json

KINDS = ("futures", "units", "full")
NAME = "my-cluster"
MODULE = "fractal_backends_my_cluster"
LIMIT = {"futures": "workers", "units": "parallel_units", "full": "parallel_units"}
COMMON = {
    "pyproject.toml",
    "README.md",
    ".gitignore",
    ".github/workflows/ci.yml",
    f"{MODULE}/__init__.py",
    f"{MODULE}/backend.py",
    f"{MODULE}/py.typed",
    "tests/test_backend.py",
    "tests/test_conformance.py",
}
OWN = {
    "futures": set[str](),
    "units": set[str](),
    "full": {f"{MODULE}/engine.py", f"{MODULE}/executor.py", "check.json"},
}
LONGEST = "a" * 32


@dataclass(frozen=True)
class Made:
    """A new backend, and what was said about it."""

    kind: str
    folder: Path
    result: Result

    @property
    def files(self) -> set[str]:
        return {path for path, content in snapshot(self.folder).items() if content is not None}

    @property
    def check(self) -> str:
        options = " --options check.json" if self.kind == "full" else ""
        return f"fractal-backends check {NAME}{options}"

    def site(self, folder: Path) -> str:
        """A PYTHONPATH on which it counts as installed."""
        install(folder, f"fractal-backends-{NAME}", {NAME: f"{MODULE}:MyClusterBackend"})
        return f"{folder}:{self.folder}"


def _make(folder: Path, kind: str) -> Made:
    kinds = [] if kind == "futures" else ["--kind", kind]
    return Made(kind, folder / NAME, cli("new", NAME, *kinds, cwd=folder))


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {kind: _make(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, all_made: dict[str, Made]) -> Made:
    return all_made[request.param]


# What is made


def test_it_tells_what_it_made_and_what_to_do_next(made: Made) -> None:
    assert (made.result.code, made.result.err) == (0, "")
    assert made.files == COMMON | OWN[made.kind]
    lines = made.result.out.splitlines()
    assert lines[0] == f"The backend {NAME} is in {NAME}:"
    assert set(lines[1 : 1 + len(made.files)]) == {f"  {path}" for path in made.files}
    assert lines[-6:-2] == [
        "Next:",
        f"  cd {NAME}",
        "  pip install -e '.[test]'",
        f"  {made.check}",
    ]


def test_the_distribution_is_a_plugin_of_this_core(made: Made) -> None:
    project = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "fractal-backends-my-cluster"
    assert project["entry-points"] == {"fractal_backends": {NAME: f"{MODULE}:MyClusterBackend"}}
    major, minor, _ = version("fractal-backends").split(".")
    assert project["dependencies"] == [f"fractal-backends>={major}.{minor},<{major}.{int(minor) + 1}"]
    assert project["optional-dependencies"] == {"test": ["fractal-backends[conformance]", "pytest"]}


def test_its_continuous_integration_does_what_the_readme_says(made: Made) -> None:
    steps = (made.folder / ".github" / "workflows" / "ci.yml").read_text()
    readme = (made.folder / "README.md").read_text()
    for command in ("pip install -e '.[test]'", "pytest", made.check):
        assert f"- run: {command}" in steps
        assert f"\n{command}\n" in readme
    assert "python-version: ${{ matrix.python }}\n" in steps


def test_the_module_of_the_backend_is_short(made: Made) -> None:
    assert len((made.folder / MODULE / "backend.py").read_text().splitlines()) <= 60


def test_no_template_language_is_left(made: Made) -> None:
    for path in made.files - {".github/workflows/ci.yml"}:
        assert not re.search(r"\{[{%]|[%}]\}", (made.folder / path).read_text()), path


def _passes(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["x", LONGEST])
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_is_clean_whatever_the_name(kind: str, name: str, tmp_path: Path) -> None:
    assert cli("new", name, "--kind", kind, cwd=tmp_path).code == 0
    for command in (["check"], ["format", "--check", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        _passes(ruff, tmp_path / name)


def test_the_code_is_typed(tmp_path: Path) -> None:
    """All of it in one go: starting a type checker is what takes long."""
    packages: list[str] = []
    for kind in KINDS:
        cli("new", f"a-{kind}", "--kind", kind, cwd=tmp_path)
        packages += [f"a-{kind}/fractal_backends_a_{kind}"]
    settings = ["--strict", "--no-incremental", "--config-file", "a-units/pyproject.toml"]
    _passes([sys.executable, "-m", "mypy", *settings, *packages, "a-full/tests"], tmp_path)


# That it works

PROGRAM = """
    import json, os, sys, time
    args = json.load(open(sys.argv[2]))
    note = os.open(args["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(note, b"+")
    end = time.monotonic() + 30
    while open(args["notes"]).read().count("+") < args["together"] and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    os.write(note, b"-")
"""


def _most_at_once(notes: str) -> int:
    now = most = 0
    for sign in notes:
        now += 1 if sign == "+" else -1
        most = max(most, now)
    return most


def _workflow(folder: Path, option: str, ceilings: list[int]) -> Path:
    """A task for each of the ceilings, whose units wait until as many of them run."""
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    command = f"{sys.executable} -S -E {folder / 'program.py'}"
    tasks = [
        {
            "task": {
                "name": f"T{n}",
                "type": "parallel",
                "command_parallel": command,
                "output_types": {"seen": True},
            },
            "meta_parallel": {option: n},
            "args_parallel": {"notes": str(folder / f"notes{n}"), "together": n},
        }
        for n in ceilings
    ]
    return write_json(folder / "workflow.json", {"task_list": tasks})


def test_it_runs_workflows_and_keeps_the_ceiling_of_every_task(made: Made, tmp_path: Path) -> None:
    images = [{"zarr_url": f"/data/{n}"} for n in range(8)]
    dataset = write_json(tmp_path / "dataset.json", {"zarr_dir": "/data", "images": images})
    ceilings = [1, 3, 2]
    workflow = _workflow(tmp_path, LIMIT[made.kind], ceilings)
    result = cli(
        *("run", workflow, "--dataset", dataset, "--backend", NAME, "--run-dir", "run"),
        cwd=tmp_path,
        PYTHONPATH=made.site(tmp_path / "site"),
    )
    assert result.code == 0, result.err
    assert [image["types"] for image in read_json(tmp_path / "run" / "images.json")] == [{"seen": True}] * 8
    assert [_most_at_once((tmp_path / f"notes{n}").read_text()) for n in ceilings] == ceilings


def test_info_shows_its_options(made: Made, tmp_path: Path) -> None:
    result = cli("info", NAME, "--json", cwd=tmp_path, PYTHONPATH=made.site(tmp_path / "site"))
    about = json.loads(result.out)
    assert about["config_file_variable"] == "MY_CLUSTER_CONFIG_FILE"
    assert "concurrency_limit" in about["capabilities"]
    option = about["options"][LIMIT[made.kind]]
    assert (option["type"], option["default"]) == ("integer > 0", 4)
    assert option["description"]


ACCOUNT_AND_INIT = """
    import asyncio
    from pathlib import Path
    from fractal_backends import get_backend

    task = {"name": "T", "type": "non_parallel", "command_non_parallel": "printenv"}
    asyncio.run(
        get_backend("my-cluster").process_workflow(
            workflow={"task_list": [{"task": task}]},
            dataset={"zarr_dir": "/data"},
            workflow_dir_local=Path("run $(touch stray)"),
            logger_name="test",
            slurm_account="the lab's",
            worker_init=WORKER_INIT,
        )
    )
"""


@pytest.mark.parametrize("last_line", ["", "\n# done", "\n:\\"])
def test_the_full_kind_has_accounts_and_initial_lines(
    all_made: dict[str, Made], tmp_path: Path, last_line: str
) -> None:
    init = "export GREETING='hello  there'\nexport TWICE=\"$GREETING $GREETING\"" + last_line
    script = textwrap.dedent(ACCOUNT_AND_INIT).replace("WORKER_INIT", repr(init))
    # It stands in for a task's command, which is called with arguments.
    (tmp_path / "printenv").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "printenv").chmod(0o755)
    path = f"{tmp_path}:{environment()['PATH']}"
    env = environment(PYTHONPATH=all_made["full"].site(tmp_path / "site"), PATH=path)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True, timeout=DEADLINE_S)
    (log,) = tmp_path.glob("run*/0_t/0.log")
    lines = log.read_text().splitlines()
    assert "FRACTAL_ACCOUNT=the lab's" in lines
    assert "TWICE=hello  there hello  there" in lines
    assert not (tmp_path / "stray").exists()


# What is refused

BAD_NAMES = [
    *("", "My-Cluster", "my cluster", "my.cluster", "3d", "-x", "x-", "a--b", "../x", "x/y", "x\n", "café"),
    LONGEST + "a",
]


def _refused(folder: Path, *args: str | Path, before: list[str] | None = None, **env: str | Path) -> str:
    """Calls `new` and returns the message; nothing is made or changed."""
    there = snapshot(folder)
    result = cli("new", *args, cwd=folder, before=before or [], **env)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert snapshot(folder) == there
    return result.err


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_cannot_be_a_name(name: str, tmp_path: Path) -> None:
    assert "cannot be the name of a backend" in _refused(tmp_path, "--", name)


@pytest.mark.parametrize("name", ["futures", "unit", "thread-pool"])
def test_a_name_that_would_hide_a_class_which_the_code_uses(name: str, tmp_path: Path) -> None:
    assert "there is a class" in _refused(tmp_path, name)


def test_the_name_of_a_backend_of_this_project(tmp_path: Path) -> None:
    assert "'local' is there already: pip install fractal-backends-local" in _refused(tmp_path, "local")


@pytest.mark.parametrize(
    ("name", "distribution", "offers"),
    [
        (NAME, "other-name", NAME),
        (NAME, "other-name", "My_Cluster"),
        (NAME, "Fractal.Backends_my-cluster", "other-backend"),
    ],
)
def test_the_name_of_what_is_installed(name: str, distribution: str, offers: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, distribution, {offers: "module:Backend"})
    message = _refused(tmp_path, name, PYTHONPATH=site)
    assert f"{offers!r} is there already: {distribution} 1.0 is installed" in message


def test_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "work.py").write_text("mine")
    assert f"{NAME} is there already" in _refused(tmp_path, NAME)
    assert "is there already" in _refused(tmp_path, NAME, "--folder", f"{NAME}/work.py")


def test_an_unknown_kind(tmp_path: Path) -> None:
    message = _refused(tmp_path, NAME, "--kind", "pool")
    assert all(kind in message for kind in KINDS)


def test_without_jinja2_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError\n")
    message = _refused(tmp_path, NAME, PYTHONPATH=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert "pip install 'fractal-backends[conformance]'" in message


@pytest.mark.parametrize("folder", ["a/b/new", "empty", "."])
def test_on_an_error_nothing_is_left(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    place = tmp_path / "empty" if folder == "." else tmp_path
    limited = ["sh", "-c", 'ulimit -f 1; exec "$0" "$@"', sys.executable]
    assert "File too large" in _refused(place, NAME, "--folder", folder, before=limited)


# Where it goes


@pytest.mark.parametrize(
    ("folder", "change"), [("a/b/two words", "cd 'a/b/two words'"), ("empty", "cd empty"), (".", None)]
)
def test_any_new_or_empty_folder_will_do(folder: str, change: str | None, tmp_path: Path) -> None:
    if folder == "empty":
        (tmp_path / "empty").mkdir()
    result = cli("new", NAME, "--folder", folder, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / folder / MODULE / "backend.py").exists()
    changes = [line.strip() for line in result.out.splitlines() if "cd " in line]
    assert changes == ([change] if change else [])
