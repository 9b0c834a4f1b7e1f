"""The extra lines of the site file, of tasks' meta and of given options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fractal_backends_slurm.options import charged_account

from fractal_backends import InvalidInputError
from tests.helpers.slurm_options import SITE, Json, prepare, problems


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
        source = {"meta": "meta_parallel", "given": "the backend's options"}[where]
        with pytest.raises(InvalidInputError, match=rf"account is 'mine' \(from .*{source}\), but the run's"):
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


def test_an_empty_list_in_a_meta_adds_nothing(site: Callable[[Any], None]) -> None:
    site({"default_slurm_config": {"extra_lines": list(NICE)}})
    assert prepare({"extra_lines": []}).extra_lines == NICE


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


def test_two_lines_that_disagree_are_told(site: Callable[[Any], None]) -> None:
    (problem,) = problems({"extra_lines": ["#SBATCH -p short", "#SBATCH --partition=long"]})
    assert "two lines in extra_lines set --partition: 'short' and 'long'" in problem
