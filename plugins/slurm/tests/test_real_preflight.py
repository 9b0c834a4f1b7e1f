"""What SLURM would refuse is told before anything is submitted; what it would only make wait is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import Cause, InvalidInputError, get_backend
from slurm_lab import Settings, SlurmLab
from tests.helpers.slurm_runs import StartRun

Json = dict[str, Any]
WRONG: Json = {
    "gres": "nope:1",
    "constraint": "nope",
    "nodelist": "nope",
    "mem": "900G",
    "extra_lines": ["#SBATCH --nope=1", "#SBATCH --neither"],
}
TOLD = [
    "mem=921600 is more than the largest node's MB: 16000",
    "gres=nope:1: sbatch: Invalid generic resource (gres) specification",
    "constraint=nope: sbatch: Invalid feature specification",
    "nodelist=nope: sbatch: Invalid node name specified",
    "extra_lines: '#SBATCH --nope=1': sbatch: unrecognized option '--nope=1'",
    "extra_lines: '#SBATCH --neither': sbatch: unrecognized option '--neither'",
]


def problems(place: Path, *metas: Json, backend: str = "slurm", **options: Any) -> list[str]:
    """What is told of a workflow with these metas, without the names of tasks and metas."""
    task = {"name": "t", "type": "non_parallel", "command_non_parallel": "true"}
    chosen = get_backend(backend, options=options)
    workflow = {"task_list": [{"task": task, "meta_non_parallel": meta} for meta in metas]}
    prepared = chosen.prepare(workflow, {"zarr_dir": "/data"})
    try:
        chosen.check(chosen.run_info(place / "run", "tests"), prepared)
    except InvalidInputError as error:
        assert [line.split(",")[0] for line in error.problems] == sorted(
            line.split(",")[0] for line in error.problems
        )
        told = [line.partition("non-parallel part: ")[2] for line in error.problems]
        return [re.sub(r" \(from task \d \('t'\), meta_non_parallel\)", "", line) for line in told]
    return []


@pytest.mark.slurm(Settings(accounting=True))
def test_all_that_is_wrong_is_told_at_once(place: Path, slurm_lab: SlurmLab) -> None:
    partition = {"partition": "nope", "constraint": "gpu", "gres": "gpu:99"}  # where that is, is not known
    told = problems(place, WRONG, {}, partition, {"account": "nope", "gpus": "99"}, {"gres": "gpu:99"})
    assert told == [
        *TOLD,
        "partition=nope: sbatch: invalid partition specified: nope; Invalid partition name specified",
        "account=nope: sbatch: Invalid account or account/partition combination specified",
        "gpus=99: sbatch: Requested node configuration is not available",
        "gres=gpu:99: sbatch: Requested node configuration is not available",
    ]
    assert all("--test-only" in words for words in slurm_lab.calls("sbatch"))
    assert slurm_lab.jobs() == {}


@pytest.mark.slurm(Settings(accounting=True))
def test_where_it_comes_from_is_told(
    place: Path, slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {
        "default_slurm_config": {"partition": "none", "account": "nobody"},
        "gpu_slurm_config": {"partition": "nowhere"},
    }
    file = place / "site.json"
    file.write_text(json.dumps(site))
    monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(file))

    told = problems(place, {}, {"needs_gpu": True}, constraint="nope")
    origins = [re.findall(r"^(\w+)=.* \(from (.*?)\): sbatch", line)[0] for line in told]
    default, gpu = (f"the configuration file {file}, {name}_slurm_config" for name in ("default", "gpu"))
    of_both = [("account", default), ("constraint", "the backend's options")]
    assert sorted(origins[:3]) == sorted([*of_both, ("partition", default)])
    assert sorted(origins[3:]) == sorted([*of_both, ("partition", gpu)])


def test_what_cannot_be_had_together_is_told(place: Path, slurm_lab: SlurmLab) -> None:
    told = problems(place, {"constraint": "plain", "gres": "gpu:1"}, {"partition": "small", "gres": "gpu:1"})
    assert [line.rpartition(": ")[2] for line in told] == [
        "Requested node configuration is not available"
    ] * 2


@pytest.mark.slurm(Settings(cpus_of_last=16))
def test_nodes_of_several_kinds(place: Path, start_run: StartRun) -> None:
    """The largest is what a unit may ask for; `sinfo` would tell what all of them have."""
    told = problems(place, {"cpus_per_task": 17})
    assert told == ["cpus_per_task=17 is more than the largest node's cores: 16"]
    start_run({"a": "exit 0"}, {"cpus_per_task": 16}).must_end()


def test_nodes_that_are_away_are_waited_for(place: Path, slurm_lab: SlurmLab, start_run: StartRun) -> None:
    """`sbatch --test-only` says of them what it says of nodes that there are not; sbatch accepts the job."""
    gpu_node = slurm_lab.nodes[-1]
    slurm_lab.drain(gpu_node)
    assert problems(place, {"gres": "gpu:1"}, {"nodelist": gpu_node}, WRONG) == TOLD
    run = start_run({"a": "exit 0"}, {"gres": "gpu:1"})
    assert eventually(lambda: "PENDING" in slurm_lab.jobs().values(), 30), run.story()
    slurm_lab.resume(gpu_node)
    run.must_end()


def test_a_partition_that_is_down_is_waited_for(
    place: Path, slurm_lab: SlurmLab, start_run: StartRun
) -> None:
    slurm_lab.run("scontrol", "update", "partition=small", "state=down")
    try:
        run = start_run({"a": "exit 0"}, {"partition": "small"})
        assert eventually(lambda: "PENDING" in slurm_lab.jobs().values(), 30), run.story()
    finally:
        slurm_lab.run("scontrol", "update", "partition=small", "state=up")
    run.must_end()


def test_a_scheduler_that_does_not_answer_has_no_objection(place: Path, slurm_lab: SlurmLab) -> None:
    slurm_lab.crash_slurmctld()
    assert problems(place, WRONG) == []


def test_a_configuration_that_is_not_there_is_told_at_once(
    start_run: StartRun, slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's own commands would say so after some minutes."""
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    run = start_run({"a": "exit 0"})
    run.wait(30)
    assert "SLURM_CONF names /nowhere/slurm.conf, which is not there" in str(run.error)
    assert slurm_lab.calls() == []


def test_commands_before_a_submission_may_make_it_right(
    place: Path, slurm_lab: SlurmLab, start_run: StartRun
) -> None:
    export = "export SBATCH_CONSTRAINT=plain"
    assert problems(place, {"constraint": "nope"}, pre_submission_commands=[export]) == []
    assert problems(place, {"mem": "900G"}, pre_submission_commands=[export]) == TOLD[:1]
    run = start_run({"a": "exit 0"}, {"constraint": "nope", "pre_submission_commands": [export]})
    run.must_end(a=Cause.LAUNCH_FAILED)
    assert f"(after pre_submission_commands: {export})" in run.outcomes["a"].info


def test_a_command_before_a_submission_fails(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": ["true", "false"]})
    run.must_end(a=Cause.LAUNCH_FAILED)
    assert "pre_submission_commands: 'false' failed with exit code 1" in run.outcomes["a"].info
    assert "sbatch" not in run.outcomes["a"].info
    run.must_leave_no_files()
    assert slurm_lab.calls("sbatch") == []


def test_a_command_before_a_submission_says_much_before_it_fails(start_run: StartRun) -> None:
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": ["seq 1500; echo the reason; false"]})
    run.must_end(a=Cause.LAUNCH_FAILED)
    info = run.outcomes["a"].info
    assert info.startswith(
        "pre_submission_commands: 'seq 1500; echo the reason; false' failed with exit code 1;"
    )
    assert info.endswith("the reason")


def test_a_command_before_a_submission_fails_in_many_words(start_run: StartRun) -> None:
    """That may pass for what SLURM says, and come after all that the shell says."""
    before = ["set -x; trap 'echo connection refused' EXIT", "false"]
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": before})
    run.must_end(a=Cause.LAUNCH_FAILED)
    assert "pre_submission_commands: 'false' failed with exit code 1" in run.outcomes["a"].info


def test_what_a_command_before_a_submission_says_of_others(start_run: StartRun) -> None:
    """That sbatch failed is no fault of it."""
    before = ["echo mount failed with exit code 1, trying again"]
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": before, "partition": "nope"})
    run.must_end(a=Cause.LAUNCH_FAILED)
    assert run.outcomes["a"].info.count("sbatch: ") and "(after pre_submission" in run.outcomes["a"].info


def test_a_command_before_a_submission_has_no_part_in_it(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Neither the job script nor its id are the command's."""
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": ["cat", "echo 99"]})
    run.must_end()
    calls = len(slurm_lab.calls("sbatch"))
    words = {
        "exit 0": "they ended with exit code 0 before sbatch was called",
        "kill -s TERM $$": "they were ended by signal 15 before sbatch was called",
        "echo x >&2; exit 3": "they ended with exit code 3 before sbatch was called; they printed: 99\nx",
        "echo timed out >&2; false": "timed out",
    }
    for command, told in words.items():
        run = start_run({"a": "exit 0"}, {"pre_submission_commands": ["echo 99", command]})
        run.must_end(a=Cause.LAUNCH_FAILED)
        assert told in run.outcomes["a"].info
    assert len(slurm_lab.calls("sbatch")) == calls


def test_a_command_before_a_submission_does_not_end(
    start_run: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fractal_backends_slurm.scheduler.TIMEOUT_S", 3.0)
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": ["echo slow >&2; sleep 300"]})
    run.must_end(a=Cause.LAUNCH_FAILED)
    assert "pre_submission_commands: they did not end before sbatch was called" in run.outcomes["a"].info


def test_a_command_before_a_submission_is_ended_with_the_run(start_run: StartRun, place: Path) -> None:
    begun = place / "begun"
    run = start_run({"a": "exit 0"}, {"pre_submission_commands": [f"touch {begun}", "sleep 1000"]})
    assert eventually(begun.exists, 30)
    run.cancel()
    run.wait(20)
    assert run.causes == {"a": str(Cause.CANCELLED)}
    run.must_leave_no_files()


def test_the_dummy_tells_the_same(place: Path, slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(place / "cluster"))
    (place / "settings.json").write_text('{"nodes": [{"name": "n[1-4]", "memory_mb": 16000, "gpus": 2}]}')
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(place / "settings.json"))
    assert problems(place, WRONG, backend="dummy_slurm") == problems(place, WRONG)
    assert not (place / "cluster").exists()
