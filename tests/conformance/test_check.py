"""The command `check`, and pytest's way to the same suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends.conformance.requirements import SUITE_VERSION, requirements
from tests.helpers.plugins import install

HANGS = """
import asyncio, os, subprocess, time
from fractal_backends_local import LocalBackend

class Hangs(LocalBackend):
    async def process_workflow(self, **arguments):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        time.sleep(600)

class Dies(LocalBackend):
    async def process_workflow(self, **arguments):
        print("about to go", flush=True)
        os._exit(3)

class Raises(LocalBackend):
    async def process_workflow(self, **arguments):
        raise KeyError("internal")

class KillsItsGroup(LocalBackend):
    async def process_workflow(self, **arguments):
        os.killpg(0, 9)

class HangsInThreads(LocalBackend):
    def open(self, run):
        time.sleep(600)

class ReturnsASet(LocalBackend):
    async def process_workflow(self, **arguments):
        return {**await super().process_workflow(**arguments), "history": {"of all runs"}}
"""


def check(
    tmp_path: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**(env or install(tmp_path / "installed", {})), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-m", "fractal_backends.cli", "check", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def ill_behaved(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "ill.py").write_text(HANGS)
    (tmp_path / "installed").rename(tmp_path / "modules")
    env = install(
        tmp_path / "installed",
        {
            name.lower(): f"ill:{name}"
            for name in ("Hangs", "Dies", "Raises", "KillsItsGroup", "HangsInThreads", "ReturnsASet")
        },
    )
    return {**env, "PYTHONPATH": f"{env['PYTHONPATH']}:{tmp_path / 'modules'}"}


def test_a_backend_that_conforms(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html", "badge")}
    only = ["--only", "smoke", "--only", "IFACE-014"]
    result = check(tmp_path, "local", *only, *(f"--{kind}={path}" for kind, path in files.items()))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(files["json"].read_text())
    verdicts = {entry["requirement"]["id"]: entry["verdict"] for entry in report["judgements"]}
    assert list(verdicts) == list(requirements())
    chosen = {name for name, requirement in requirements().items() if requirement.smoke} | {"IFACE-014"}
    assert {name for name, verdict in verdicts.items() if verdict == "passed"} == chosen
    assert report["conforms"] is True
    assert report["subject"]["name"] == "local"
    named = ET.parse(files["junit"]).iterfind(".//property[@name='requirement']")
    assert {entry.get("value") for entry in named} == chosen
    assert "local" in files["html"].read_text()
    assert f"conformance {SUITE_VERSION}" in files["badge"].read_text()
    assert not list(tmp_path.glob("fractal-check-*"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hangs", ["still under way", "ill.py", "process_workflow"]),
        ("dies", ["it ended", "about to go"]),
        ("raises", ["KeyError"]),
        ("killsitsgroup", ["it ended by signal 9; it wrote nothing"]),
        ("returnsaset", ["to return JSON values", "set is not JSON serializable", "{'of all runs'}"]),
    ],
)
def test_backends_that_misbehave(tmp_path: Path, name: str, told: list[str]) -> None:
    result = check(tmp_path, name, "--only=IFACE-004,EXEC-001", "--deadline=2", env=ill_behaved(tmp_path))
    assert result.returncode == 1, result.stderr
    for part in ("IFACE-004", "EXEC-001", "expected", *told):
        assert part in result.stdout
    assert list(tmp_path.glob("fractal-check-*"))


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("import time; time.sleep(600)", "it did not load within 3 s"),
        ("import os; os._exit(0)", "loading it ended the process (returncode=0)"),
        ("import os; os.killpg(0, 9)", "loading it ended the process (returncode=-9)"),
    ],
)
def test_an_import_that_comes_to_no_end(tmp_path: Path, does: str, told: str) -> None:
    (tmp_path / "bad_import.py").write_text(does)
    env = install(tmp_path / "installed", {"bad": "bad_import:Backend"})
    env["PYTHONPATH"] += f":{tmp_path}"
    result = check(tmp_path, "bad", "--only=smoke", "--deadline=3", env=env)
    assert result.returncode == 2, result.stdout
    assert told in result.stderr
    assert not list(tmp_path.glob("fractal-check-*"))


def test_a_hang_is_told_in_few_lines(tmp_path: Path) -> None:
    env = ill_behaved(tmp_path)
    result = check(tmp_path, "hangsinthreads", "--only=ISO-001", "--deadline=2", env=env)
    lines = result.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    got:"))
    story = lines[start : next(i for i, line in enumerate(lines) if line.startswith("    files:"))]
    assert "2 threads are in" in story[1], result.stdout
    assert "ill.py" in story[2]
    assert len(story) < 10
    assert all(line.startswith(" " * 14) for line in story[1:])


def test_what_a_run_was_given_is_kept(tmp_path: Path) -> None:
    result = check(tmp_path, "raises", "--only=ISO-001", env=ill_behaved(tmp_path))
    (folder,) = tmp_path.glob("fractal-check-*/files/test_one_object0")
    assert str(folder / "run-1") in result.stdout
    assert "requests/1.json" in result.stdout
    request = json.loads((folder / "requests/1.json").read_text())
    assert request["arguments"]["workflow"]["task_list"][0]["task"]["type"] == "parallel"
    assert request["arguments"]["dataset"]["images"]
    assert request["options"]


def seeded(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The report of a check of a backend that fails each example, and the first example that it was given."""
    tmp_path.mkdir()
    only = ("--only=RAND-003", f"--json={tmp_path / 'report.json'}")
    check(tmp_path, "raises", *only, *arguments, env=ill_behaved(tmp_path))
    (request,) = tmp_path.glob("fractal-check-*/files/test_random_failures0/requests/1.json")
    steps = json.loads(request.read_text())["arguments"]["workflow"]["task_list"][0]["args_parallel"]["do"]
    ends = [steps_of_unit[2:] for steps_of_unit in steps.values()]
    return json.loads((tmp_path / "report.json").read_text()), json.dumps(ends)


def test_random_examples_are_the_same_unless_a_seed_is_given(tmp_path: Path) -> None:
    report, usual = seeded(tmp_path / "usual")
    again, usual_again = seeded(tmp_path / "again")
    other, of_a_seed = seeded(tmp_path / "other", "--seed=5", "--examples=3")
    assert usual == usual_again != of_a_seed
    assert [(found["seed"], found["examples"]) for found in (report, again, other)] == [
        (None, None),
        (None, None),
        (5, 3),
    ]


def test_wrong_input(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(
        '{"option": {}, "arguments": {"slurm_usr": "x", "slurm_account": 7}, "time_limit_s": "1 min"}'
    )
    cases: dict[str, tuple[list[str], str]] = {
        "no-such-backend": (["no-such-backend"], "There is no backend 'no-such-backend'"),
        "selection": (["local", "--only", "nonsense"], "nonsense"),
        "no settings": (["local", "--options", "missing.json"], "missing.json"),
        "settings": (["local", "--options", str(settings)], "slurm_usr"),
        "time limit": (["local", "--options", str(settings)], "time_limit_s must be a whole number"),
        "argument": (["local", "--options", str(settings)], "slurm_account must be a string, not 7"),
        "deadline": (["local", "--deadline", "inf"], "--deadline"),
        "one file": (["local", "--json", "same", "--html", "same"], "a file of its own"),
        "seed": (["local", "--seed", "-1"], "--seed"),
        "examples": (["local", "--examples", "0"], "--examples"),
        "output": (["local", "--html", str(tmp_path / "no" / "such" / "page.html")], "page.html"),
    }
    for case, (arguments, told) in cases.items():
        folder = tmp_path / case
        folder.mkdir()
        result = check(folder, *arguments)
        assert result.returncode == 2, case
        assert told in result.stderr, case
        assert "Traceback" not in result.stderr, case


def test_what_a_report_is_written_to_stays_what_it_is(tmp_path: Path) -> None:
    """A link and a pipe, and so a device such as /dev/null, are not replaced by a file."""
    file, link, pipe = (tmp_path / name for name in ("report.json", "latest.json", "badge.svg"))
    file.touch()
    link.symlink_to(file)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check(tmp_path, "local", "--only", "ENV-004", "--json", str(link), "--badge", str(pipe))
        assert os.read(reader, 10_000).startswith(b"<svg")
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert json.loads(file.read_text())["judgements"]


def interrupted(tmp_path: Path, name: str, begun: str) -> tuple[str, dict[str, Any]]:
    """What a check prints that is interrupted once there is a file, and its report."""
    report = tmp_path / "report.json"
    with subprocess.Popen(
        [sys.executable, "-m", "fractal_backends.cli", "check", name, f"--json={report}"],
        env={**ill_behaved(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as process:
        assert eventually(lambda: any(tmp_path.glob(f"fractal-check-*/files/{begun}")), 60)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    return printed, json.loads(report.read_text())


def test_an_interrupted_check_tells_what_it_has_found(tmp_path: Path) -> None:
    printed, report = interrupted(tmp_path, "local", "*/run-1")
    assert "was not judged to the end" in printed
    assert report["conforms"] is False
    assert ["the check was interrupted"] in [entry["reasons"] for entry in report["judgements"]]
    assert not list(tmp_path.glob("fractal-check-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["installed", "modules", "report.json"]


def test_an_interrupted_check_tells_what_had_failed(tmp_path: Path) -> None:
    printed, report = interrupted(tmp_path, "raises", "test_*/requests/2.json")
    assert "KeyError" in printed
    assert "does not conform" in printed
    assert "failed" in [entry["verdict"] for entry in report["judgements"]]
    assert Path(report["folder"]).exists()


def test_without_the_extra(tmp_path: Path) -> None:
    (tmp_path / "hypothesis.py").write_text("raise ImportError('No module named hypothesis')")
    env = install(tmp_path / "installed", {})
    result = check(tmp_path, "local", env={**env, "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"})
    assert result.returncode == 2
    assert "pip install 'fractal-backends[conformance]'" in result.stderr


def test_options_reach_the_backend(tmp_path: Path) -> None:
    settings, found = tmp_path / "settings.json", tmp_path / "report.json"
    settings.write_text('{"options": {"parallel_tasks_per_job": 1}}')
    only_one = ("--only", "EXEC-007", "--options", str(settings), "--deadline", "3", "--json", str(found))
    check(tmp_path, "local", *only_one)
    assert json.loads(found.read_text())["subject"]["options"] == {"parallel_tasks_per_job": 1}


@pytest.mark.parametrize(("time_limit_s", "code"), [(4, 0), (1, 1)])
def test_an_engine_may_have_a_smallest_time_limit(tmp_path: Path, time_limit_s: int, code: int) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"time_limit_s": time_limit_s}))
    env = install(
        tmp_path / "installed", {"coarse-spool": "tests.conformance.correct.spool:CoarseSpoolBackend"}
    )
    only = ("--only", "CAP-009", "--options", str(settings))
    result = check(tmp_path, "coarse-spool", *only, env=env)
    assert result.returncode == code, result.stdout


def test_wrong_options_are_no_verdict_on_the_backend(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"options": {"parallel_tasks_per_job": 0, "nonsense": 3}}')
    result = check(tmp_path, "local", "--only", "EXEC-001", "--options", str(settings))
    assert result.returncode == 2
    assert "parallel_tasks_per_job" in result.stderr
    assert "nonsense" in result.stderr


@pytest.mark.parametrize(
    "extra",
    [
        ["-m", "smoke", "--only", "IFACE-001"],
        ["-m", "interface"],
        ["-k", "test_the_result"],
        ["-k", "IFACE-004"],
        ["--in-process"],
    ],
)
def test_pytest(tmp_path: Path, extra: list[str]) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--pyargs", "fractal_backends.conformance", "--backend=local"),
            *("-p", "no:cacheprovider", "--only", "IFACE-004", f"--basetemp={tmp_path / 'base'}", *extra),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


def test_pytest_without_the_suite_knows_no_backend_option(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--backend', default='mine')\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_it(request):\n    assert request.config.getoption('--backend') == 'mine'\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
