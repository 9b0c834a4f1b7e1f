"""Questions and submissions that have no consequences: the dummy answers as a real SLURM does."""

from __future__ import annotations

import pytest

from slurm_lab import Settings
from tests.helpers.slurm_fixtures import Same
from tests.helpers.slurm_sites import ACCOUNTED, PLAIN_LINES, Answer, Site

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
    "--mem=99999999 --cpus-per-task=9",
    "--ntasks=9 --nodes=1",
    "--mincpus=9",
    "--mincpus=9 --partition=small",
    "--mincpus=9 --mem=99999999",
    "--mincpus=8 --mem=99999999",
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
    "--time=1-:30",
    "--time=1-1:",
    "--mem=x",
    "--mem=1G --mem-per-cpu=1G",
    "--ntasks=0",
    "--nodes=x",
    "--nodes=",
    "--nodes=1-x",
    "--nodes=1-",
    "--nodes=-",
    "--nodes=0",
    "--nodes=0 --array=0-3",
    "--nodes=0 --partition=nope",
    "--nodes=2-1",
    "--mincpus=0",
    "--mincpus=x",
    "--open-mode=foo",
    "--open-mode=",
    "--kill-on-invalid-dep=maybe",
    "--nodelist=n[x]",
    "--nodelist=n[3-2]",
    "--nodelist=n[1-99999999999]",
    "--exclude=n[1-99999999999]",
    "--nodelist=n[]",
    "--exclude=n[x]",
    "--nodelist=nope[2-3] --nodes=1",
    "--nodelist=nope[2-3] --nodes=1-1 --array=x",
    "--nodelist=nope[2-3] --nodes=1 --ntasks=0",
    "--nodelist=nope[2-3] --nodes=1-2",
    "--nope",
    "--mail-type=FOO",
    "--dependency=foo",
    "--dependency=afterok:x",
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
    "--test-only --nodelist=nope[2-3] --nodes=1",
    "--test-only --mincpus=9",
    "--test-only --mincpus=8 --constraint=gpu",
    "--test-only --nodes=0",
    "--test-only --nodes=0 --array=0-3",
    "--test-only --nodes=2-1",
    "--test-only --nodes=1k",
    "--test-only --nodelist=n[x]",
    "--test-only --open-mode=foo",
    "--test-only --kill-on-invalid-dep=maybe",
    "--test-only --dependency=foo",
    "--test-only --reservation=foo",
    "--test-only --licenses=foo",
]
_TAKEN = [
    *("--begin=23:59", "--begin=tomorrow", "--begin=noon", "--begin=2099-12-01", "--begin=now+1hour"),
    *("--mail-type=END,FAIL", "--gpus-per-node=1", "--hint=nomultithread", "--cpu-freq=high", "--contiguous"),
    *("--constraint=[plain|gpu]", "--constraint=plain*1", "--gres-flags=enforce-binding", "--mincpus=2"),
    *("--gpus=0", "--gres=nope:0", "--gres=none"),
    *("--mincpus=8", "--open-mode=Append", "--open-mode=t", "--kill-on-invalid-dep=YES", "--time=1-"),
    *("--nodes=0-1", "--nodes=1-0", "--nodes=-1", "--nodes=+1", "--nodes=1-2"),
    *("--distribution=block", "--wckey=a", "--spread-job", "--prefer=plain", "--get-user-env"),
]
_SCRIPTS = [
    "",
    "true\n",
    "#!/bin/sh\r\ntrue\r\n",
    "#!/bin/sh\n#SBATCH --nope\n",
    "#!/bin/sh\n#SBATCH --mem=x\n",
    '#!/bin/sh\n\n#SBATCH --comment="a b\n',
    "#!/bin/sh\n#SBATCH --comment='a b\n",
    "#!/bin/sh\n#SBATCH --comment=a b\n",
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
    "sinfo --noheader --states=idle --format=%P|%N|%T",
    "sinfo --noheader --states=drain,down --format=%N|%T",
    "scontrol show partition",
    "scontrol show partition nope",
    "scontrol show node nope",
    "scontrol show nope",
    "scontrol show hostnames a[1-3,7],b",
    "scontrol show hostnames a[x]",
    "scontrol show node a[3-2]",
    "scontrol update nodename=a[x] state=resume",
    "scontrol nope",
    "scontrol update foo=bar",
    "scontrol update nodename=nope state=drain",
    "scontrol update nodename=nope state=drain reason=test",
    "scontrol ping",
]
_OF_KINDS = [
    "sinfo",
    "sinfo --noheader --format=%P|%c|%m|%l",
    "sinfo --noheader --exact --format=%P|%c|%m|%l",
    "sinfo --noheader --exact --format=%P|%l|%L|%c|%m|%X|%Y",
    "sinfo --noheader --exact --format=%P|%D",
    "sinfo --noheader --format=%P|%c|%f|%D",
    "sinfo --noheader --format=%P|%c|%G|%N",
    "sinfo --noheader --Node --partition=main --format=%N|%P|%c",
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
def test_options_that_are_taken(same: Same) -> None:
    def scenario(site: Site) -> dict[str, int]:
        return {words: site.call("sbatch", "--test-only", words, script=_SCRIPT).code for words in _TAKEN}

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_variables_that_stand_for_options(same: Same) -> None:
    """Words on the command line go before them, and they before the lines of the script."""
    variables = ["SBATCH_PARTITION=small", "SBATCH_TIMELIMIT=5", "SBATCH_JOB_NAME=named"]
    script = "#!/bin/sh\n#SBATCH --time=9 --job-name=line\n"

    def scenario(site: Site) -> list[Answer]:
        job = site.call(
            "env", *variables, "sbatch", "--parsable", "--hold", "--time=7", script=script
        ).out.strip()
        shown = site.call("squeue", "--noheader", f"--jobs={job}", "--format=%P|%j|%l")
        return [
            shown,
            site.call("scancel", job),
            site.call("env", "SBATCH_ACCOUNT=x", "sbatch", script=script),
        ]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_scripts_that_are_not_accepted(same: Same) -> None:
    same(lambda site: {script: site.call("sbatch", script=script) for script in _SCRIPTS})


@pytest.mark.slurm(Settings(cpus_of_last=16, lines=PLAIN_LINES))
def test_nodes_of_several_kinds(same: Same) -> None:
    def scenario(site: Site) -> dict[str, Answer]:
        return {words: site.call(*words.split()) for words in _OF_KINDS}

    same(scenario)


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
