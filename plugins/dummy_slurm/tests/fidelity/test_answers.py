"""Questions and submissions that have no consequences: the dummy answers as a real SLURM does."""

from __future__ import annotations

import pytest

from tests.helpers.slurm_fixtures import Same
from tests.helpers.slurm_sites import ACCOUNTED, Answer, Site

_SCRIPT = "#!/bin/sh\ntrue\n"
_UNKNOWN = [
    "--partition=nope",
    "--partition=main,nope",
    "--partition=",
    "--account=nope",
    "--constraint=nope",
    "--nodelist=nope",
    "--exclude=nope",
]
_TOO_MUCH = [
    "--mem=99999999",
    "--cpus-per-task=9",
    "--mem=16000 --cpus-per-task=9",
    "--gpus=5",
    "--gres=gpu:5",
    "--constraint=gpu --gres=gpu:1 --nodes=2",
    "--gres=nope:1",
    "--array=0-1001",
    "--partition=small,main --cpus-per-task=9",
]
_MALFORMED = [
    "--array=x",
    "--array=5-2",
    "--time=x",
    "--mem=x",
    "--mem=1G --mem-per-cpu=1G",
    "--ntasks=0",
    "--nodes=x",
    "--nope",
    "--version",
    "/no/such/script",
]
_TRIED_ONLY = [
    "--test-only",
    "--test-only --parsable --array=0-99",
    "--test-only --partition=nope",
    "--test-only --partition=main,nope",
    "--test-only --partition=small,main --nodes=2",
    "--test-only --partition=small --nodes=2",
    "--test-only --cpus-per-task=99",
    "--test-only --mem=99999999",
    "--test-only --constraint=nope",
    "--test-only --constraint=gpu --gres=gpu:1",
    "--test-only --gres=gpu:5",
    "--test-only --gres=nope:1",
    "--test-only --nodelist=nope",
    "--test-only --account=nope",
    "--test-only --nope",
]
_SCRIPTS = [
    "",
    "true\n",
    "#!/bin/sh\r\ntrue\r\n",
    "#!/bin/sh\n#SBATCH --nope\n",
    "#!/bin/sh\n#SBATCH --mem=x\n",
]
_OF_JOBS = [
    "squeue",
    "squeue --noheader --states=all --jobs=99999999",
    "squeue --noheader --states=all --jobs=99999999,99999998",
    "squeue --noheader --states=all --jobs=x",
    "squeue --noheader --states=all --name=nope",
    "squeue --noheader --states=nope",
    "squeue --nope",
    "scontrol show job 99999999",
    "scontrol show job --oneliner x",
    "scontrol requeue 99999999",
    "scancel",
    "scancel 99999999",
    "scancel --quiet 99999999 99999998_3",
    "scancel x",
    "scancel --name=nope",
    "scancel --user=nope",
    "sacct --noheader --jobs=99999999",
    "sacct --noheader --jobs=x",
]
_OF_THE_SITE = [
    "sinfo",
    "sinfo --noheader --format=%P|%c|%m|%l",
    "sinfo --noheader --format=%P|%c|%m|%l --partition=small",
    "sinfo --noheader --format=%P|%c|%m|%l|%D|%t",
    "sinfo --noheader --Node --partition=main --format=%N|%P|%c|%m|%l|%D|%T|%E",
    "sinfo --noheader --Node --partition=main --format=%a|%T|%f|%G|%c|%m",
    "sinfo --noheader --partition=nope",
    "scontrol show partition",
    "scontrol show partition nope",
    "scontrol show node nope",
    "scontrol show nope",
    "scontrol show hostnames a[1-3,7],b",
    "scontrol nope",
    "scontrol update foo=bar",
    "scontrol update nodename=nope state=drain",
    "scontrol update nodename=nope state=drain reason=test",
    "scontrol ping",
]
_LIMITS = ("MaxArraySize ", "MaxJobCount ", "MinJobAge ", "KillWait ", "DefMemPerCPU ", "SLURM_VERSION ")


@pytest.mark.slurm(ACCOUNTED)
@pytest.mark.parametrize(
    "options",
    [_UNKNOWN, _TOO_MUCH, _MALFORMED, _TRIED_ONLY],
    ids=["unknown", "too-much", "malformed", "tried-only"],
)
def test_submissions_that_are_not_accepted(same: Same, options: list[str]) -> None:
    def scenario(site: Site) -> dict[str, Answer]:
        return {words: site.call("sbatch", *words.split(), script=_SCRIPT) for words in options}

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_scripts_that_are_not_accepted(same: Same) -> None:
    same(lambda site: {script: site.call("sbatch", script=script) for script in _SCRIPTS})


@pytest.mark.slurm(ACCOUNTED)
@pytest.mark.parametrize("commands", [_OF_JOBS, _OF_THE_SITE], ids=["jobs", "site"])
def test_questions(same: Same, commands: list[str]) -> None:
    same(lambda site: {words: site.call(*words.split()) for words in commands})


@pytest.mark.slurm(ACCOUNTED)
def test_limits_of_the_site(same: Same) -> None:
    def scenario(site: Site) -> list[str]:
        lines = site.call("scontrol", "show", "config").out.splitlines()
        return [line for line in lines if line.startswith(_LIMITS)]

    same(scenario)
