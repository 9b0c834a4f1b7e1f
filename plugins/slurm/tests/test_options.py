"""Values of options: what is taken, what is refused, what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from fractal_backends_slurm.hostlist import expand
from fractal_backends_slurm.options import SlurmOptions, account_problem, charged_account
from fractal_backends_slurm.packing import SiteLimits, pack
from hypothesis import given, strategies as st
from pydantic import ValidationError

from fractal_backends import InvalidInputError

DAY = 86_400


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        *[("30", 1800), (30, 1800), ("0:02", 2), ("90:30", 5430), ("00:00:02", 2), ("1:00:00", 3600)],
        *[("1-0", DAY), ("1-12", DAY + 43_200), ("0-0:30", 1800), ("2-01:02:03", 2 * DAY + 3723)],
        ("100:00:00", 360_000),
    ],
)
def test_times(time: Any, expected: int) -> None:
    assert SlurmOptions(time=time).time_s == expected


def test_gpus_and_other_resources() -> None:
    for gpus in ("1", "0", "a100:1", "2080ti:1,1g.5gb:2", 2):
        assert SlurmOptions(gpus=gpus).gpus == str(gpus)
    for gres in ("gpu:1", "gpu", "none", "gres:gpu:a100:2,lscratch:10G", "gpu:2(S:0)"):
        assert SlurmOptions(gres=gres).gres == gres


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({"gres": "none"}, False),
        ({"gres": "gpu:0"}, False),
        ({"gres": "lscratch:10"}, True),
        ({"gpus": 1}, True),
        ({"extra_lines": ["#SBATCH --gres=lscratch:10"]}, True),
    ],
)
def test_what_steps_of_one_job_have_to_share(values: dict[str, Any], expected: bool) -> None:
    assert SlurmOptions(**values).asks_for_gres is expected


@pytest.mark.parametrize(
    "time", ["", "soon", "1:2:3:4", "1-", "-1", "0", "00:00:00", 0, 1.5, "1h", "²", "5\n"]
)
def test_what_is_no_time(time: Any) -> None:
    if time == "5\n":
        assert SlurmOptions(time=time).time == "5"
        return
    with pytest.raises(ValidationError):
        SlurmOptions(time=time)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "a\nb") for name in ("partition", "gres", "gpus", "constraint", "nodelist", "exclude")],
        *[("gpus", value) for value in ("-1", "a100", "1.5", "2,", "a:b:1")],
        *[("gres", value) for value in ("3", "gpu:", "gpu:1,", "gpu 1", ":1", "-1")],
        *[("qos", "\x1b[0m"), ("account", ""), ("account", True), ("partition", " "), ("nodes", 2)],
        *[
            ("cpus_per_task", 0),
            ("cpus_per_task", True),
            ("cpus_per_task", "1.5"),
            ("mem", "4X"),
            ("mem", "9" * 400 + "K"),
            ("mem", "9" * 5_000 + "K"),
            ("max_cpus_per_job", 10**400),
            ("time", "9" * 400),
        ],
        *[("shebang", "/bin/sh"), ("shebang", "#!sh"), ("shebang", "#!/bin/sh\nid")],
        *[
            ("extra_lines", ["rm -rf /"]),
            ("extra_lines", ["#SBATCH -p x\nid"]),
            ("extra_lines", "#SBATCH -p x"),
        ],
        *[("extra_lines", ["#SBATCH --output=x"]), ("extra_lines", ["#SBATCH -o x"])],
        *[
            ("extra_lines", ["#SBATCH"]),
            ("extra_lines", ["#SBATCH -c 2"]),
            ("extra_lines", ["export A=$(id)"]),
            ("extra_lines", ["export SLURM_ARRAY_TASK_ID=0"]),
            ("extra_lines", ["export fb_unit=0"]),
        ],
        *[
            ("extra_lines", ["export A=a b"]),
            ("extra_lines", ["export A='a"]),
            ("extra_lines", ["#SBATCH x"]),
            ("extra_lines", ["#SBATCH --hol"]),
            ("extra_lines", ["#SBATCH --outp=x"]),
            ("extra_lines", ["#SBATCH --acc=x"]),
            ("extra_lines", ["#SBATCH --parti x"]),
            ("extra_lines", ["#SBATCH --cluster=x"]),
            ("extra_lines", ["#SBATCH --tasks=3"]),
            ("extra_lines", ["#SBATCH -M other"]),
            ("extra_lines", ["#SBATCH -QAother"]),
            ("extra_lines", ["#SBATCH -sH"]),
        ],
        *[("user_local_exports", {"A": "/abs"}), ("user_local_exports", {"A": "a/../../b"})],
        *[("user_local_exports", {"A=B": "a"}), ("user_local_exports", {"A": "a\nb"})],
        *[("user_local_exports", {name: "a"}) for name in ("SLURM_JOB_ID", "fb_unit", "FRACTAL_MARK")],
        *[("poll_interval", 0), ("poll_interval", -1), ("tasks_per_job", 0), ("unheard_of", 1)],
    ],
)
def test_what_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        SlurmOptions(**{name: value})


def test_all_that_is_wrong_in_a_line_is_told() -> None:
    with pytest.raises(
        ValidationError, match=r"--output is set by .*; cores are counted .*; a run goes to one"
    ):
        SlurmOptions(extra_lines=["#SBATCH --output=x -c 2 --mem=4 -M other"])


def test_lines_for_sbatch_and_lines_that_export() -> None:
    options = SlurmOptions(
        extra_lines=[
            "#SBATCH --exclusive",
            "export A='b c'",
            "#SBATCH -N 1",
            "export E=",
            "#SBATCH --exclusive",
        ]
    )
    assert options.sbatch_lines == ["#SBATCH --exclusive", "#SBATCH -N 1"]
    assert options.exports == {"A": "b c", "E": ""}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tasks_per_job": 2, "parallel_tasks_per_job": 4}, ["parallel_tasks_per_job=4 is more than"]),
        ({"target_mem_per_job": "2G", "max_mem_per_job": "1G"}, ["target_mem_per_job=2048"]),
        ({"target_num_jobs": 3, "max_num_jobs": 2}, ["target_num_jobs=3"]),
        ({"gpus": "1", "gres": "tmp:1,gpu:2"}, ["gpus and gres ask for GPUs"]),
        ({"gpus": "1", "extra_lines": ["#SBATCH --gres=gpu:1"]}, ["gpus and extra_lines ask for GPUs"]),
        ({"nodelist": "n[01-03],x", "exclude": "n02,x"}, ["both name n02, x", "nodelist names 4 nodes"]),
        ({"partition": "a", "extra_lines": ["#SBATCH -p b"]}, ["sets --partition"]),
        ({"mem": 5, "extra_lines": ["#SBATCH --mem-per-cpu=5"]}, ["sets --mem-per-cpu"]),
        ({"gpus": "1", "extra_lines": ["#SBATCH -L x --gres gpu:1 # one"]}, ["GPUs"]),
        ({"extra_lines": ["#SBATCH -p a", "#SBATCH --partition=b"]}, ["two lines"]),
        ({"cpus_per_task": 4, "max_cpus_per_job": 3}, ["cpus_per_task=4 is more than max_cpus_per_job=3"]),
        ({"mem": 4, "max_mem_per_job": 7, "parallel_tasks_per_job": 2}, ["need 8"]),
        (
            {"nodelist": "a", "exclude": "a", "gpus": "1", "gres": "gpu:1"},
            ["GPUs", "both name a"],
        ),
        ({"gres": "tmp:1", "gpus": "1", "nodelist": "a[1]", "exclude": "a3"}, []),
    ],
)
def test_contradictions(values: dict[str, Any], told: list[str]) -> None:
    found = list(SlurmOptions(**values).contradictions())
    assert len(found) == len(told)
    for (names, text), part in zip(found, told, strict=True):
        assert part in text
        assert set(names) <= set(SlurmOptions.model_fields)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        *[("", set()), ("a", {"a"}), ("a,b", {"a", "b"}), ("a[1-3]", {"a1", "a2", "a3"})],
        ("a[08-10,12]x,b", {"a08x", "a09x", "a10x", "a12x", "b"}),
        *[("r[1-2]n[1-2]", {"r1n1", "r1n2", "r2n1", "r2n2"}), ("a[1-999999999]", {"a[1-999999999]"})],
        *[("a[", {"a["}), ("a[x]", {"a[x]"}), ("a[3-1]", set())],
    ],
)
def test_names_of_nodes(text: str, names: set[str]) -> None:
    assert expand(text) == names


@given(st.text(alphabet="ab[]-,0123456789", max_size=30))
def test_any_text_is_expanded(text: str) -> None:
    expand(text)


def arguments(account: str | None = None, **values: Any) -> list[str]:
    options = SlurmOptions(**values)
    return options.sbatch_arguments(pack(8, options, SiteLimits()), account)


def test_arguments_of_sbatch() -> None:
    assert arguments() == ["--cpus-per-task=1"]
    assert arguments(
        "me", partition="a,b", cpus_per_task=2, mem="4G", time="10", parallel_tasks_per_job=4, gres="gpu:1"
    ) == [
        *["--partition=a,b", "--cpus-per-task=8", "--mem=16384M", "--time=0:12:00"],
        *["--gres=gpu:1", "--account=me"],
    ]
    assert arguments(mem=1001, cpus_per_task=2, use_mem_per_cpu=True) == [
        *["--cpus-per-task=2", "--mem-per-cpu=501M"]
    ]
    more = {"gpus": "1", "constraint": "x y", "nodelist": "a[1-2]", "exclude": "a3", "qos": "low"}
    assert arguments(**more)[1:] == [f"--{name}={value}" for name, value in more.items()]
    assert arguments(gpus=0, use_mem_per_cpu=True) == arguments()


def test_who_pays() -> None:
    site = SlurmOptions(default_account="site")
    assert charged_account(site, None) == "site"
    assert charged_account(site, "mine") == "mine"
    asked = SlurmOptions(default_account="site", account="asked")
    assert charged_account(asked, None) == charged_account(asked, "asked") == "asked"
    assert charged_account(SlurmOptions(), None) is None
    assert account_problem(asked, "mine") is not None
    with pytest.raises(InvalidInputError, match="'asked', but the run's slurm_account is 'mine'"):
        charged_account(asked, "mine")
