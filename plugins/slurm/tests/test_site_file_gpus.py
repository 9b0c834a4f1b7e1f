"""GPUs that the site file, tasks' meta and given options ask for, or rule out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fractal_backends import InvalidInputError
from tests.helpers.slurm_options import SITE, Json, prepare, problems


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


def test_a_site_may_have_all_tasks_on_gpus(site: Callable[[Any], None]) -> None:
    site({**SITE, "default_slurm_config": {"needs_gpu": True}})
    assert prepare().partition == "gpu"
    assert prepare({"needs_gpu": None}).partition == "gpu"
    assert prepare({"needs_gpu": "no"}).partition is None
    assert prepare({}, {"needs_gpu": None}).partition is None
    assert prepare({"needs_gpu": False}, {"needs_gpu": "y"}).partition == "gpu"


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
