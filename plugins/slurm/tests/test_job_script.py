"""The job script, executed by several shells and awks, without a scheduler."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_slurm.receipts import End, Note, Receipts
from fractal_backends_slurm.script import JobScript
from fractal_backends_slurm.submission import CANCELLED_FILE
from fractal_backends_slurm.verdicts import of_end, of_refusal

from conftest import eventually

SHELLS = ["dash", "bash", "busybox"]
AWKS = ["mawk", "gawk", "original-awk"]
Programs = Callable[[str], Path]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Folders with all programs of this machine, but with only one awk."""

    @cache
    def with_awk(awk: str) -> Path:
        found = shutil.which(awk)
        if not found:
            pytest.skip(f"{awk} is not installed")
        folder = tmp_path_factory.mktemp(awk)
        for program in Path("/usr/bin").iterdir():
            if program.name not in (*AWKS, "awk"):
                (folder / program.name).symlink_to(program)
        for name in {"awk", awk} - {"busybox"}:
            (folder / name).symlink_to(found)
        return folder

    return with_awk


class Node:
    """Executes job scripts as a compute node would."""

    def __init__(self, folder: Path, shell: str, programs: Path) -> None:
        self.folder = folder / "it's a $folder"
        self.place = folder / 'the "task"'
        self.place.mkdir()
        self._shell = [shell, "sh"] if shell == "busybox" else [shell]
        self._programs = programs

    def run(self, *commands: str, index: int = 0, job: str = "7", **script: object) -> dict[str, Note]:
        """Run one shell command for each unit; what is noted of them, by label."""
        self.folder.mkdir(exist_ok=True)
        labels = [f"0_par_{number:07d}" for number in range(len(commands))]
        (self.folder / "units").write_text("".join(f"{label}\n" for label in labels))
        for label, command in zip(labels, commands, strict=True):
            (self.place / f"{label}.args.json").write_text(command)
        parts: dict[str, Any] = {
            "title": "a test",
            "home": str(self.place),
            "folder": str(self.folder),
            "place": str(self.place),
            "command": ["/bin/sh", "-c", 'out=$4; eval "$(cat "$2")"', "it's"],
            "units_each": len(commands),
        }
        job_script = JobScript(**{**parts, **script})
        path = self.folder / "script"
        path.write_bytes(job_script.render())
        env = {
            **os.environ,
            "PATH": str(self._programs),
            "SLURM_ARRAY_JOB_ID": job,
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_JOB_ID": job,
            "SLURMD_NODENAME": "n1",
        }
        self.exit_code = subprocess.run(
            [*self._shell, str(path)], env=env, timeout=60, check=False
        ).returncode
        receipts = self.receipts()
        assert receipts.is_over(job, index)
        return receipts.notes

    def receipts(self) -> Receipts:
        """What all runs wrote down."""
        found = Receipts()
        for receipt in sorted(self.folder.glob("*.receipt")):
            found.take(receipt.name, receipt.read_text())
        return found


@pytest.fixture(params=AWKS)
def node(request: pytest.FixtureRequest, tmp_path: Path, shell: str, programs: Programs) -> Node:
    return Node(tmp_path, shell, programs(request.param))


@pytest.fixture
def plain_node(tmp_path: Path, programs: Programs) -> Node:
    return Node(tmp_path, "sh", programs(next(awk for awk in AWKS if shutil.which(awk))))


def _program(path: Path, lines: str) -> None:
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def _end(note: Note) -> End:
    assert note.end is not None
    return note.end


def test_exit_codes_and_signals_are_told_apart(node: Node) -> None:
    commands = ["exit 3", "exit 137", "exit 143", "exit 255"]
    signals = [f"kill -{number} $$" for number in (1, 2, 6, 9, 11, 13, 15)]
    notes = node.run(*commands, *signals, "true")
    told = [(_end(notes[label]).exit_code, _end(notes[label]).signal) for label in sorted(notes)]
    expected = [(3, 0), (137, 0), (143, 0), (255, 0)]
    assert told == [*expected, *((0, number) for number in (1, 2, 6, 9, 11, 13, 15)), (0, 0)]


def test_a_unit_that_is_stopped_goes_on(plain_node: Node) -> None:
    notes = plain_node.run("(sleep 0.3; kill -s CONT $$) & kill -s STOP $$; exit 137", "exit 3")
    assert [_end(notes[label]).exit_code for label in sorted(notes)] == [137, 3]


@pytest.mark.parametrize("name", ["INT", "QUIT"])
def test_what_runs_the_units_outlives_signals_that_end_a_unit(node: Node, name: str) -> None:
    notes = node.run(f"kill -s {name} $PPID; sleep 0.1; exit 3", f"kill -s {name} $$", "true")
    ends = [_end(notes[label]) for label in sorted(notes)]
    assert [(end.exit_code, end.signal > 0) for end in ends] == [(3, False), (0, True), (0, False)]


def test_logs_and_outputs(node: Node) -> None:
    notes = node.run("echo said; echo more >&2; echo '{}' >\"$out\"", "true", 'cat; ln -s nowhere "$out"')
    assert [_end(notes[label]).has_output for label in sorted(notes)] == [True, False, True]
    log = node.place / "0_par_0000000.log"
    assert log.read_text() == "said\nmore\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_is_left_in_the_group_ends_with_the_unit(node: Node) -> None:
    pid, seen = node.place / "pid", node.place / "seen"
    node.run(
        f"sleep 60 & echo $! >{_q(pid)}",
        f"for i in 1 2 3 4 5 6 7 8 9; do kill -0 $(cat {_q(pid)}) 2>/dev/null || break; sleep 0.1; done;"
        f" grep -s State /proc/$(cat {_q(pid)})/status >{_q(seen)}; true",
    )
    assert "sleeping" not in seen.read_text()


def test_what_left_the_group_ends_with_the_job_script(node: Node) -> None:
    """In a session of its own, and handed over to whoever adopts orphans."""
    pid = node.place / "pid"
    node.run(f"setsid sleep 60 & echo $! >{_q(pid)}; until pgrep -s $!; do :; done", "true")
    state = Path("/proc", pid.read_text().strip(), "status")
    assert eventually(lambda: not state.exists() or "zombie" in state.read_text(), 5)


def test_jobs_of_other_clusters_with_the_same_number_are_left_alone(plain_node: Node) -> None:
    names = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **names}) as other:
        try:
            plain_node.run("setsid sleep 60 & until pgrep -s $!; do :; done")
            assert other.poll() is None
        finally:
            other.kill()


def test_jobs_that_a_unit_submits_are_left_alone(plain_node: Node) -> None:
    """They inherit its environment, with a number of their own."""
    pid = plain_node.place / "pid"
    until_orphan = "until pgrep -s $!; do :; done"
    plain_node.run(f"SLURM_JOB_ID=8 setsid sleep 60 & echo $! >{_q(pid)}; {until_orphan}")
    other = int(pid.read_text())
    assert "sleeping" in Path(f"/proc/{other}/status").read_text()
    os.kill(other, signal.SIGKILL)


def _q(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def test_a_time_limit(node: Node) -> None:
    notes = node.run("sleep 30", "true", limit_s=1)
    outcome = of_end(notes["0_par_0000000"], _end(notes["0_par_0000000"]), 1, is_last=False)
    assert outcome is not None
    assert outcome.cause == "time limit"
    assert _end(notes["0_par_0000001"]).is_good


def test_a_unit_starts_once(node: Node) -> None:
    trace = node.place / "trace"
    command = f"echo ran >>{_q(trace)}"
    node.run(command, command)
    notes = node.run(command, command, job="8")
    assert trace.read_text() == "ran\nran\n"
    assert {note.refused for note in notes.values()} == {"claimed"}
    assert all(note.job == "7" and _end(note).is_good for note in notes.values())


@pytest.mark.parametrize("name", [CANCELLED_FILE, f"0_par_0000001.{CANCELLED_FILE}"])
def test_no_unit_begins_after_a_cancel(node: Node, name: str) -> None:
    """Of all, or of its own. SLURM may not know that the job runs."""
    ran, cancelled = node.place / "ran", node.folder / name
    notes = node.run(f"touch {_q(cancelled)}", f"touch {_q(ran)}")
    assert _end(notes["0_par_0000000"]).is_good
    assert notes["0_par_0000001"].refused == "cancelled"
    assert not ran.exists()


def test_aliases_of_worker_init_are_not_for_the_script(node: Node) -> None:
    notes = node.run("exit 3", worker_init="alias echo='echo x' read=false mkdir='mkdir -p' exec=false")
    assert _end(notes["0_par_0000000"]).exit_code == 3


def test_an_array_task_that_is_started_again_while_a_unit_runs(plain_node: Node) -> None:
    """A controller that forgot does so. The second start tells nothing of the unit but that it has it not."""
    trace, gate = plain_node.place / "trace", plain_node.place / "gate"
    command = f"echo ran >>{_q(trace)}; until [ -e {_q(gate)} ]; do sleep 0.05; done; exit 3"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(plain_node.run, command)
        assert eventually(trace.exists, 30)
        note = plain_node.run(command)["0_par_0000000"]
        gate.touch()
        assert note.end is None
        assert note.refused == "claimed"
        assert _end(first.result()["0_par_0000000"]).exit_code == 3
    assert trace.read_text() == "ran\n"
    receipts = plain_node.receipts()
    assert receipts.was_started_again(receipts.notes["0_par_0000000"], 0)
    assert receipts.jobs["7", 0].over == {1, 2}


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-file", "/etc/passwd", "/etc"])
def test_a_command_that_cannot_be_run(node: Node, command: str) -> None:
    notes = node.run("true", command=[command])
    assert notes["0_par_0000000"].refused == "command"


def test_a_folder_that_cannot_be_written_to(node: Node) -> None:
    note = node.run("true", place=f"{node.place}/missing")["0_par_0000000"]
    outcome = of_refusal(note, "true", "/l")
    assert outcome is not None
    assert outcome.info.startswith("Cannot write the log /l on n1: "), outcome.info
    assert "directory" in note.said.lower()


def test_a_unit_whose_start_cannot_be_noted_is_not_claimed(node: Node) -> None:
    receipt, ran = node.folder / "7_0.receipt", node.place / "ran"
    with pytest.raises(IsADirectoryError):
        node.run(f"mv {_q(receipt)} {_q(node.place)}; mkdir {_q(receipt)}", f"touch {_q(ran)}")
    assert (node.place / "0_par_0000000.log").exists()
    assert not (node.place / "0_par_0000001.log").exists()
    assert not ran.exists()


def test_what_a_submission_writes_to_is_away_for_a_moment(node: Node) -> None:
    """While the first unit is to start; nothing can be noted, not even that it was refused."""
    for label in ("0_par_0000000", "0_par_0000001"):
        (node.place / f"{label}.metadiff.json").touch()  # is removed before a unit starts
    away, folder = _q(node.place / "away"), _q(node.folder)
    move = f"if mkdir {away}; then mv {folder} {away}; (sleep 1; mv {away}/* {folder}) >/dev/null 2>&1 & fi"
    _program(node.place / "bin" / "rm", f'/bin/rm "$@"\ncase $2 in *.metadiff.json) {move} ;; esac')
    notes = node.run("exit 3", "true", worker_init=f"PATH={_q(node.place / 'bin')}:$PATH")
    assert {label: _end(note).is_good for label, note in notes.items()} == {"0_par_0000001": True}
    assert not (node.place / "0_par_0000000.log").exists()
    assert node.exit_code == 0


def test_what_a_submission_writes_to_is_away_while_a_unit_ends(node: Node) -> None:
    away, folder = _q(node.place / "away"), _q(node.folder)
    notes = node.run(f"mv {folder} {away}; (sleep 1.5; mv {away} {folder}) & exit 3", "true")
    assert [_end(note).exit_code for note in notes.values()] == [3, 0]


def test_array_tasks_have_their_own_units(node: Node) -> None:
    notes = node.run("true", "true", "true", "true", "true", units_each=2, index=1)
    assert sorted(notes) == ["0_par_0000002", "0_par_0000003"]


def test_the_environment_of_a_unit(node: Node) -> None:
    seen = node.place / "seen"
    hostile = 'two  words, it\'s "quoted" `id` $HOME \\ \n é'
    init = "export FROM_INIT='a b'\r\nNOT_EXPORTED=1"
    node.run(f"env -0 >{_q(seen)}", env={"GIVEN": hostile}, worker_init=init, unset=["SLURMD_NODENAME"])
    found = dict(line.split("=", 1) for line in seen.read_text().split("\0") if line)
    assert found["GIVEN"] == hostile
    assert found["FROM_INIT"] == "a b"
    assert "SLURMD_NODENAME" not in found
    assert not [name for name in found if name.startswith("fb_")]


@pytest.mark.parametrize("options", ["set -e", "set -aefuvxC"])
def test_initial_lines_that_change_how_the_shell_works(node: Node, options: str) -> None:
    seen = node.place / "seen"
    notes = node.run("exit 3", f"env -0 >{_q(seen)}", "kill -s KILL $$", "true", worker_init=options)
    ends = [_end(notes[label]) for label in sorted(notes)]
    assert [(end.exit_code, end.signal) for end in ends] == [(3, 0), (0, 0), (0, 9), (0, 0)]
    assert not [line for line in seen.read_text().split("\0") if line.startswith("fb_")]


def test_initial_lines_that_hide_slurm(node: Node) -> None:
    init = "unset SLURM_ARRAY_JOB_ID SLURM_JOB_ID SLURMD_NODENAME; SLURM_ARRAY_TASK_ID=0"
    notes = node.run("true", "exit 3", "exit 4", "exit 5", index=1, units_each=2, worker_init=init)
    ends = {label: (note.host, _end(note).exit_code) for label, note in notes.items()}
    assert ends == {"0_par_0000002": ("n1", 4), "0_par_0000003": ("n1", 5)}


SRUN = """\
for option; do case $option in --*) shift ;; *) break ;; esac; done
exec env SEEN_JOB="$SLURM_JOB_ID" "$@"
"""


@pytest.mark.parametrize(
    "init", ["true", "unset SLURM_JOB_ID", "readonly SLURM_JOB_ID", "export SLURM_JOB_ID=9"]
)
def test_what_steps_find_in_their_environment(node: Node, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    """What srun needs, and else what `worker_init` left; no value of a variable is shell."""
    touched, seen = node.place / "touched", node.place / "seen"
    monkeypatch.setenv("GIVEN", f"a\nexport SLURM_X=1; touch {_q(touched)} #")
    monkeypatch.setenv("SLURM_NOTE", "it's\nmore")
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    _program(node.place / "bin" / "srun", SRUN)
    lines = f"{init}\nPATH={_q(node.place / 'bin')}:$PATH\nexport SLURM_CPU_BIND=none"
    notes = node.run(f"env -0 >{_q(seen)}", "exit 3", worker_init=lines, at_once=2)
    assert {label: _end(note).exit_code for label, note in notes.items()} == {
        "0_par_0000000": 0,
        "0_par_0000001": 3,
    }
    found = dict(line.split("=", 1) for line in seen.read_text().split("\0") if line)
    assert (found["SEEN_JOB"], found["SLURM_CPU_BIND"], found["SLURM_NOTE"]) == ("7", "none", "it's\nmore")
    assert not touched.exists()


def test_a_prolog_that_says_something_in_each_step(node: Node) -> None:
    _program(node.place / "bin" / "srun", f"echo Welcome; echo to n1\n{SRUN}")
    lines = f"PATH={_q(node.place / 'bin')}:$PATH"
    notes = node.run("true", "exit 3", "true", worker_init=lines, at_once=2)
    assert [_end(notes[label]).exit_code for label in sorted(notes)] == [0, 3, 0]


@pytest.mark.parametrize("separator", [":", "/", "0", ""])
def test_initial_lines_that_change_how_words_are_split(node: Node, separator: str) -> None:
    notes = node.run("true", "exit 3", worker_init=f"IFS='{separator}'")
    assert [_end(notes[label]).exit_code for label in sorted(notes)] == [0, 3]


@pytest.mark.parametrize(
    "init", ["exit 7", "set -e\nfalse", "nonsense ((", "cd /nowhere || exit 1", "umask 777; exit 7"]
)
def test_initial_lines_that_end_the_script_are_its_end(node: Node, init: str) -> None:
    assert node.run("true", worker_init=init) == {}  # and its end was noted


@pytest.mark.parametrize(
    "init", ["echo 'a", 'echo "$(pwd', "if true; then", "cat <<END >/dev/null", "echo \\"]
)
def test_initial_lines_that_are_not_whole_run_nothing(node: Node, init: str) -> None:
    odd = node.place / "`touch odd`"
    assert node.run("true", worker_init=init, place=str(odd)) == {}
    assert not (node.place / "odd").exists()


INIT = """\
# a comment
greet() {
    GREETING="it's $1"
}
greet me
cat <<END >/dev/null
'
END
export GREETING # for units"""


def test_initial_lines_may_do_what_lines_of_shell_do(node: Node) -> None:
    notes = node.run('test "$GREETING" = "it\'s me"', worker_init=INIT)
    assert _end(notes["0_par_0000000"]).is_good


def test_initial_lines_may_have_a_trap_of_their_own(node: Node) -> None:
    tidied = node.place / "tidied"
    init = f"trap {shlex.quote(f'touch {_q(tidied)}')} EXIT"
    assert _end(node.run("test ! -e " + _q(tidied), worker_init=init)["0_par_0000000"]).is_good
    assert tidied.exists()


@pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")
def test_an_awk_that_does_not_tell_signals_runs_nothing(tmp_path: Path, programs: Programs) -> None:
    assert Node(tmp_path, "sh", programs("busybox")).run("true") == {}


def test_times_are_of_this_clock(plain_node: Node) -> None:
    before = time.time()
    note = plain_node.run("sleep 0.3; exit 1")["0_par_0000000"]
    assert note.started_at is not None
    assert before - 2 < note.started_at < time.time() + 2
    assert 0.2 < _end(note).wall_s < 20
