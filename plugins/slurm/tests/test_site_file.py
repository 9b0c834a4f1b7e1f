"""The site file of Fractal's admins, tasks' meta and given options, as a run prepares them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_slurm.options import SlurmOptions, charged_account

from tests.helpers.slurm_options import SITE, Json, Slurm, prepare, problems


def changed(options: SlurmOptions) -> Json:
    return options.model_dump(exclude_defaults=True)


def test_a_task_that_asks_for_nothing_gets_the_sites_defaults(site: Callable[[Any], None]) -> None:
    site(SITE)
    assert changed(prepare()) == {
        **{"partition": "main", "mem": 1024, "default_account": "site"},
        "extra_lines": ("#SBATCH --reservation=all", "export VAR1=VALUE1"),
        **SITE["batching_config"],
        "target_mem_per_job": 200,
        "user_local_exports": SITE["user_local_exports"],
    }


def test_meta_wins_over_the_site_and_what_is_given_over_both(site: Callable[[Any], None]) -> None:
    site(SITE)
    meta = {"mem": "2G", "time": "10", "cpus_per_task": "3", "partition": "long", "foreign": 1}
    options = prepare(meta, {"mem": "3G"})
    assert (options.mem, options.time_s, options.cpus_per_task, options.partition) == (3072, 600, 3, "long")


def test_null_in_a_meta_is_not_set(site: Callable[[Any], None]) -> None:
    site(SITE)
    assert prepare({"mem": None, "partition": None, "extra_lines": None}).mem == 1024


def test_null_on_the_command_line_takes_the_sites_value_away(site: Callable[[Any], None]) -> None:
    site(SITE)
    assert prepare({}, {"mem": None}).mem is None
    assert prepare({"cpus_per_task": 4}, {"cpus_per_task": None}).cpus_per_task == 1
    assert prepare({}, {"user_local_exports": None}).user_local_exports == {}


@pytest.mark.parametrize("usual", [{"account": "site"}, {"extra_lines": ["#SBATCH -A site"]}])
def test_null_takes_the_sites_account_away(site: Callable[[Any], None], usual: Json) -> None:
    site({"default_slurm_config": usual})
    options = prepare({}, {"account": None})
    assert (charged_account(options, None), options.extra_lines) == (None, ())


def test_a_default_account_stays_a_default(site: Callable[[Any], None]) -> None:
    site({})
    options = prepare({"account": "mine"}, {"default_account": "lab"})
    assert charged_account(options, None) == "mine"


def test_how_to_ask_for_memory_is_no_wish_for_it(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"mem": "4G", "use_mem_per_cpu": True}})
    assert prepare(given={"mem": None}).mem is None
    assert prepare({"extra_lines": ["#SBATCH --mem-per-cpu=2G"]}).mem is None


def test_two_accounts_of_a_site_are_told(site: Callable[[Any], None]) -> None:
    for both in ({"account": "a", "default_account": "b"}, {"default_account": "b", "account": "a"}):
        site({"default_slurm_config": both})
        (problem,) = problems()
        assert (
            "default_slurm_config: default_account: is 'b', and account is 'a': give one of them" in problem
        )


def test_the_name_that_fractal_has_for_the_shebang(site: Callable[[Any], None]) -> None:
    assert prepare({"shebang_line": "#!/bin/bash"}).shebang == "#!/bin/bash"


def test_that_name_is_not_taken_for_a_slip(site: Callable[[Any], None]) -> None:
    task = {"name": "t", "type": "parallel", "command_parallel": "true"}
    meta = {"shebang_line": "#!/bin/bash", "shebangg": "#!/bin/bash", "color": 1}
    workflow = {"task_list": [{"task": task, "meta_parallel": meta}]}
    (prepared,) = Slurm().prepare(workflow, {"zarr_dir": "/z"}).tasks
    assert prepared.ignored == {"shebangg": "shebang", "color": None}


def test_a_file_that_only_has_options(site: Callable[[Any], None]) -> None:
    site({"partition": "main", "account": "site", "user_local_exports": {"A": "a"}})
    assert changed(prepare()) == {
        "partition": "main",
        "default_account": "site",
        "user_local_exports": {"A": "a"},
    }


def test_a_file_with_null_sections(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"mem": 5}, "gpu_slurm_config": None, "user_local_exports": None})
    assert changed(prepare()) == {"mem": 5}


def test_everything_wrong_with_the_file_is_told_at_once_with_its_place(site: Callable[[Any], None]) -> None:
    site(
        {
            "default_slurm_config": {"partiton": "main", "mem": "much"},
            "gpu_slurm_config": {"gpus": ""},
            "batching_config": {"target_cpus_per_job": 4, "max_cpus_per_job": 2, "target_jobs": 2},
            "user_local_exports": {"A-B": "x", "OUT": "../x"},
            "gpu_config": {},
            "partition": "main",
        }
    )
    found = problems({"time": "soon"}, {"nodelist": "a\nb"})
    text = "\n".join(found)
    for part in (
        "site.json: gpu_config: unknown key; did you mean gpu_slurm_config? The valid ones are default_",
        "partition: unknown key; it is an option: it belongs into default_slurm_config. The ",
        "site.json, default_slurm_config: partiton: unknown option;",
        "site.json, default_slurm_config: mem: ",
        "site.json, gpu_slurm_config: gpus: must not be empty",
        "site.json, batching_config: target_jobs: unknown key; did you mean target_num_jobs? The valid ones ",
        "site.json, user_local_exports: user_local_exports.A-B",
        "site.json, user_local_exports: user_local_exports.OUT: must be a relative path",
        "task 0 ('t'), meta_parallel: time: must be a time as SLURM has it",
        "the backend's options: nodelist: must be one line",
    ):
        assert part in text, f"{part!r} is not in\n{text}"


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "fb_unit"])
def test_what_the_job_script_goes_by_is_exported_nowhere(site: Callable[[Any], None], name: str) -> None:
    told = f"{name} is what the job script goes by"
    for where in ("meta", "given"):
        for values in ({"user_local_exports": {name: "a"}}, {"extra_lines": [f"export {name}=a"]}):
            (problem,) = problems(**{where: values})
            assert told in problem
    site({"default_slurm_config": {"mem": 1}, "user_local_exports": {name: "a", "SLURM_MINE": "b"}})
    (problem,) = problems()
    assert f"site.json, user_local_exports: user_local_exports.{name}" in problem
    assert told in problem


def test_a_search_path_is_no_folder(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"mem": 1}, "user_local_exports": {"PATH": "bin"}})
    (problem,) = problems()
    assert "PATH cannot be a single folder" in problem


def test_a_section_that_is_no_object(site: Callable[[Any], None]) -> None:
    site({"batching_config": 3, "default_slurm_config": {"mem": 1}})
    assert problems() == ["the configuration file ./site.json: batching_config: must be an object, not 3"]


def test_a_meta_runs_no_commands_where_the_runner_is(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"pre_submission_commands": ["module load slurm"]}})
    assert prepare().pre_submission_commands == ("module load slurm",)
    (problem,) = problems({"pre_submission_commands": ["rm -rf /"]})
    assert "meta_parallel: pre_submission_commands: runs where the runner is" in problem


def test_the_site_file_of_the_documentation_is_right(site: Callable[[Any], None]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "slurm.md").read_text()
    (example,) = re.findall(r'```json title="slurm.json"\n(.*?)```', page, re.DOTALL)
    site(json.loads(example))
    assert prepare().partition == "main"
    assert prepare({"needs_gpu": True}).partition == "gpu"
