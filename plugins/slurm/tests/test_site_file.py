"""The site file of Fractal's admins, tasks' meta and given options, as a run prepares them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_slurm.options import SlurmOptions, charged_account

from fractal_backends import InvalidInputError
from tests.helpers.slurm_options import Json, Slurm, prepare

SITE: Json = {
    "default_slurm_config": {
        **{"partition": "main", "cpus_per_task": 1, "mem": "1G", "account": "site"},
        "extra_lines": ["#SBATCH --reservation=all", "export VAR1=VALUE1"],
    },
    "gpu_slurm_config": {
        **{"partition": "gpu", "mem": "20G", "constraint": "a100"},
        "extra_lines": ["#SBATCH --gres=gpu:v100:1"],
    },
    "batching_config": {
        **{"target_cpus_per_job": 1, "max_cpus_per_job": 8, "target_mem_per_job": "200M"},
        **{"max_mem_per_job": 64_000, "target_num_jobs": 2, "max_num_jobs": 4},
    },
    "user_local_exports": {
        "CELLPOSE_LOCAL_MODELS_PATH": "CELLPOSE_LOCAL_MODELS_PATH",
        "NAPARI": "napari.json",
    },
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def write(content: Any) -> None:
        path = tmp_path / "site.json"
        path.write_text(json.dumps(content))
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(path))
        monkeypatch.chdir(tmp_path)

    monkeypatch.delenv("FRACTAL_SLURM_CONFIG_FILE", raising=False)
    return write


def test_null_takes_away_lines_too(site: Callable[[Any], None]) -> None:
    lines = ["#SBATCH --mem=3G", "#SBATCH --gres=gpu:1", "#SBATCH --nice=2", "export A=1"]
    site({"default_slurm_config": {"extra_lines": lines}})
    assert prepare(given={"mem": None}).extra_lines == tuple(lines[1:])
    assert prepare(given={"mem": None, "gres": None}).extra_lines == tuple(lines[2:])
    assert prepare(given={"extra_lines": None}).extra_lines == ()
    assert prepare({"mem": None}).extra_lines == tuple(lines)


def test_a_line_that_is_no_list_is_shown_as_one(site: Callable[[Any], None]) -> None:
    (problem,) = problems(given={"extra_lines": "#SBATCH --exclusive"})
    assert 'extra_lines: must be a JSON list, as in ["#SBATCH --exclusive"]' in problem


def test_a_wrong_line_is_told_also_where_it_would_not_be_used(site: Callable[[Any], None]) -> None:
    profile = {"extra_lines": ["#SBATCH --gres=gpu:1"]}
    site({"default_slurm_config": {"extra_lines": ["#SBATCH --nice=1", "junk"]}, "gpu_slurm_config": profile})
    for meta in ({}, {"needs_gpu": True}):
        (problem,) = problems(meta)
        assert "default_slurm_config: extra_lines.1: must be a line" in problem


def problems(meta: Json | None = None, given: Json | None = None) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        prepare(meta, given)
    return [problem.replace(str(Path.cwd()), ".") for problem in caught.value.problems]


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


@pytest.mark.parametrize("asked", [True, "true", "True"])
@pytest.mark.parametrize("where", ["meta", "given"])
def test_the_gpu_profile_is_used_where_a_gpu_is_asked_for(
    site: Callable[[Any], None], asked: Any, where: str
) -> None:
    site(SITE)
    options = prepare(**{where: {"needs_gpu": asked}})
    assert (options.partition, options.mem, options.constraint) == ("gpu", 20 * 1024, "a100")
    assert options.extra_lines == ("#SBATCH --gres=gpu:v100:1",)
    assert options.default_account == "site"


@pytest.mark.parametrize("where", ["meta", "given"])
@pytest.mark.parametrize("asked", [{"gpus": "2"}, {"gpus": 2}, {"gres": "gpu:a100:2"}])
def test_who_asks_for_gpus_in_another_way_replaces_the_profiles(
    site: Callable[[Any], None], where: str, asked: Json
) -> None:
    site(SITE)
    options = prepare(**{where: asked})
    assert options.partition == "gpu"
    assert options.extra_lines == ()
    assert (options.gpus or options.gres) == str(next(iter(asked.values())))


@pytest.mark.parametrize("asked", [{"gpus": 2}, {"extra_lines": ["#SBATCH --gpus=2"]}])
def test_what_the_site_wants_besides_gpus_stays(site: Callable[[Any], None], asked: Json) -> None:
    site({"default_slurm_config": {"gres": "lscratch:10,gpu:1,tmpdisk:5"}})
    assert prepare(asked).gres == "lscratch:10,tmpdisk:5"
    assert prepare({"gres": "gpu:2"}).gres == "gpu:2"
    assert prepare({"gpus": 1, "gres": "lscratch:1"}).gres == "lscratch:1"


@pytest.mark.parametrize(
    ("none", "name"),
    [
        ({"gpus": 0}, "gpus"),
        ({"gres": "gpu:0"}, "gres"),
        ({"extra_lines": ["#SBATCH --gpus=0"]}, "extra_lines"),
    ],
)
def test_a_gpu_that_is_needed_and_ruled_out(site: Callable[[Any], None], none: Json, name: str) -> None:
    site(SITE)
    (problem,) = problems({"needs_gpu": True, **none})
    assert f"needs_gpu is true, but there are to be no GPUs by {name}; to run without" in problem
    (problem,) = problems({"needs_gpu": True}, none)
    assert name in problem
    assert prepare({"needs_gpu": True}, {"needs_gpu": False, **none}).partition == "main"


def test_no_profile_where_the_task_says_so(site: Callable[[Any], None]) -> None:
    site(SITE)
    assert prepare({"needs_gpu": False, "gres": "gpu:1"}).partition == "main"
    assert prepare({"needs_gpu": True}, {"needs_gpu": False}).partition == "main"
    assert prepare({"gres": "tmpdisk:10"}).partition == "main"


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


@pytest.mark.parametrize("asked", [{"needs_gpu": True}, {"gpus": 1}, {"gres": "gpu:1"}])
def test_null_on_the_command_line_takes_the_wish_for_a_gpu_away(
    site: Callable[[Any], None], asked: Json
) -> None:
    site(SITE)
    options = prepare(asked, dict.fromkeys(asked))
    assert (options.partition, options.gpus, options.gres) == ("main", None, None)


def test_null_takes_the_wish_of_a_line_away_too(site: Callable[[Any], None]) -> None:
    site(SITE)
    options = prepare({"extra_lines": ["#SBATCH --gpus=1"]}, {"gpus": None})
    assert (options.partition, options.asks_for_gpus) == ("main", False)


def test_extra_lines_add_up_and_later_ones_win(site: Callable[[Any], None]) -> None:
    site(SITE)
    lines = ["#SBATCH --reservation=mine", "export VAR2='a b'", "#SBATCH --exclusive"]
    options = prepare({"extra_lines": lines}, {"extra_lines": ["export VAR2=c"]})
    assert options.sbatch_lines == ["#SBATCH --reservation=mine", "#SBATCH --exclusive"]
    assert options.exports == {"VAR1": "VALUE1", "VAR2": "c"}


OWN_ACCOUNT = {"extra_lines": ["#SBATCH -A mine --nice=1"]}
NICE = ("#SBATCH --nice=1",)


@pytest.mark.parametrize("where", ["meta", "given"])
def test_a_line_with_an_account_asks_for_it_like_the_option(site: Callable[[Any], None], where: str) -> None:
    for usual in ({"account": "site"}, {"extra_lines": ["#SBATCH -A site"]}):
        site({"default_slurm_config": usual})
        options = prepare(**{where: OWN_ACCOUNT})
        assert (options.account, options.extra_lines) == ("mine", NICE)
        assert charged_account(options, None) == "mine"
        with pytest.raises(InvalidInputError, match="account is 'mine', but the run's"):
            charged_account(options, "other")
    site({"default_slurm_config": {"extra_lines": list(NICE)}})
    options = prepare(**{where: {"extra_lines": ["#SBATCH --account=mine"]}})
    assert (options.account, options.extra_lines) == ("mine", NICE)
    (problem,) = problems({**OWN_ACCOUNT, "account": "mine"})
    assert "extra_lines sets --account, and so does the option account" in problem


def test_a_line_of_the_site_gives_way(site: Callable[[Any], None]) -> None:
    gpu = {"account": "gpu"}
    site({"default_slurm_config": OWN_ACCOUNT, "gpu_slurm_config": gpu})
    assert (charged_account(prepare(), None), prepare().extra_lines) == ("mine", NICE)
    assert charged_account(prepare(), "other") == "other"
    for taken_back in ({"account": "meta"}, {"default_account": "meta"}):
        options = prepare({}, taken_back)
        assert (charged_account(options, None), options.extra_lines) == ("meta", NICE)
    assert charged_account(prepare({"needs_gpu": True}), None) == "gpu"
    site({"default_slurm_config": {"account": "site", **OWN_ACCOUNT}})
    (problem,) = problems()
    assert "extra_lines sets --account, and so does the option account" in problem


@pytest.mark.parametrize("usual", [{"account": "site"}, {"extra_lines": ["#SBATCH -A site"]}])
def test_null_takes_the_sites_account_away(site: Callable[[Any], None], usual: Json) -> None:
    site({"default_slurm_config": usual})
    options = prepare({}, {"account": None})
    assert (charged_account(options, None), options.extra_lines) == (None, ())


def test_an_empty_list_in_a_meta_adds_nothing(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"extra_lines": list(NICE)}})
    assert prepare({"extra_lines": []}).extra_lines == NICE


def test_a_site_may_have_all_tasks_on_gpus(site: Callable[[Any], None]) -> None:
    site({**SITE, "default_slurm_config": {"needs_gpu": True}})
    assert prepare().partition == "gpu"
    assert prepare({"needs_gpu": None}).partition == "gpu"
    assert prepare({"needs_gpu": "no"}).partition is None
    assert prepare({}, {"needs_gpu": None}).partition is None
    assert prepare({"needs_gpu": False}, {"needs_gpu": "y"}).partition == "gpu"


def test_a_default_account_stays_a_default(site: Callable[[Any], None]) -> None:
    site({})
    options = prepare({"account": "mine"}, {"default_account": "lab"})
    assert charged_account(options, None) == "mine"


NO_GPUS = [{"gpus": 0}, {"gpus": "a100:0"}, {"gres": "gpu:0"}, {"extra_lines": ["#SBATCH --gpus=0"]}]
GPUS = [{"gpus": 1}, {"gres": "gpu:1"}, {"extra_lines": ["#SBATCH --gres=gpu:1"]}]


@pytest.mark.parametrize("none", NO_GPUS)
@pytest.mark.parametrize("asked", [{}, *GPUS])
def test_no_gpus_are_no_wish_for_one(site: Callable[[Any], None], none: Json, asked: Json) -> None:
    site(SITE)
    options = prepare(asked, none)
    assert (options.partition, options.asks_for_gpus) == ("main", False)


@pytest.mark.parametrize("none", NO_GPUS)
@pytest.mark.parametrize("usual", GPUS)
def test_no_gpus_take_the_sites_away(site: Callable[[Any], None], none: Json, usual: Json) -> None:
    site({"default_slurm_config": usual})
    assert prepare(none).asks_for_gpus is False


def test_an_option_replaces_the_sites_line_and_the_other_way_round(site: Callable[[Any], None]) -> None:
    site(
        {"default_slurm_config": {"partition": "main", "extra_lines": ["#SBATCH -C fast", "#SBATCH -q low"]}}
    )
    options = prepare({"constraint": "slow"}, {"extra_lines": ["#SBATCH -p other"]})
    assert (options.partition, options.constraint, options.qos) == ("other", "slow", "low")
    assert options.extra_lines == ()


def test_an_export_of_a_task_takes_the_place_of_the_sites(site: Callable[[Any], None]) -> None:
    site({"user_local_exports": {"MODELS": "models", "OTHER": "other"}})
    options = prepare({"extra_lines": ["export MODELS=/mine"]})
    assert (options.exports, options.user_local_exports) == ({"MODELS": "/mine"}, {"OTHER": "other"})
    options = prepare({"extra_lines": ["export MODELS=/mine"]}, {"extra_lines": None})
    assert (options.exports, options.user_local_exports) == ({}, {"MODELS": "models", "OTHER": "other"})


def test_each_setting_of_a_line_counts_for_itself(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"extra_lines": ["#SBATCH --mem=2G --nice=3 -p main"]}})
    options = prepare({"mem": "4G"})
    assert (options.mem, options.partition, options.extra_lines) == (4096, "main", ("#SBATCH --nice=3",))


def test_settings_of_a_line_keep_their_words(site: Callable[[Any], None]) -> None:
    """As sbatch reads them: with a value that is empty, and with marks."""
    line = r"#SBATCH --reservation= --licenses='a b,c ' --nice -m x\\y -p main"
    site({"default_slurm_config": {"extra_lines": [line]}})
    options = prepare()
    assert options.partition == "main"
    assert options.extra_lines == (
        "#SBATCH --reservation=",
        "#SBATCH '--licenses=a b,c '",
        "#SBATCH --nice",
        r"#SBATCH -m x\\y",
    )


def test_no_lines_leave_what_they_had_taken_away(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"mem": "4G", "partition": "main"}})
    lines = {"extra_lines": ["#SBATCH --mem=2G", "#SBATCH -q low"]}
    nothing: list[Json] = [{"extra_lines": None}, {"extra_lines": []}]
    for none in nothing:
        options = prepare(lines, none)
        assert (options.mem, options.partition, options.qos) == (4096, "main", "low")


def test_a_line_of_the_given_options_is_not_none(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"extra_lines": ["#SBATCH --nice=3"]}})
    options = prepare({}, {"extra_lines": ["#SBATCH -p long"]})
    assert (options.partition, options.extra_lines) == ("long", ("#SBATCH --nice=3",))


def test_lines_like_options_stay_beside_those_of_the_gpu_profile(site: Callable[[Any], None]) -> None:
    usual = {"extra_lines": ["#SBATCH -p main -A lab", "#SBATCH --nice=3"]}
    site({"default_slurm_config": usual, "gpu_slurm_config": {"extra_lines": ["#SBATCH --gres=gpu:1"]}})
    options = prepare({"needs_gpu": True})
    assert (options.partition, charged_account(options, None)) == ("main", "lab")
    assert options.extra_lines == ("#SBATCH --gres=gpu:1",)


def test_what_is_exported_without_a_cache_folder_stays(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"extra_lines": ["export A=/a"]}, "user_local_exports": {"A": "a"}})
    options = prepare()
    assert (options.exports, options.user_local_exports) == ({"A": "/a"}, {"A": "a"})


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


def test_two_lines_that_disagree_are_told(site: Callable[[Any], None]) -> None:
    (problem,) = problems({"extra_lines": ["#SBATCH -p short", "#SBATCH --partition=long"]})
    assert "two lines in extra_lines set --partition: 'short' and 'long'" in problem


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


def test_a_task_that_needs_a_gpu_where_the_site_has_none(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"partition": "main"}})
    (problem,) = problems({"needs_gpu": True})
    assert "meta_parallel: needs_gpu: there is no gpu_slurm_config in the site file" in problem
    assert prepare({"needs_gpu": True, "gres": "gpu:1"}).needs_gpu
    site({"default_slurm_config": {"needs_gpu": True}})
    (problem,) = problems()
    assert "default_slurm_config: needs_gpu: there is no gpu_slurm_config" in problem
    site({"default_slurm_config": {"needs_gpu": True, "gres": "gpu:1"}})
    assert prepare().asks_for_gpus
    with pytest.raises(InvalidInputError):
        prepare({"gpus": 0})
    assert not prepare({"needs_gpu": True}, {"needs_gpu": False}).needs_gpu


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
