"""Where a cluster lives, and what of others it finds there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fractal_backends_dummy_slurm import DummySlurmError, Lease

from conftest import eventually
from tests.helpers.plugins import open_folder
from tests.helpers.users import home_of, owners

_OTHER = "nobody"
_IMPOSTOR = """
import os, socket, sys
folder = sys.argv[1]
os.mkdir(folder)
os.mkdir(folder + "/bin")
with open(folder + "/bin/sinfo", "w") as file:
    file.write("#!/bin/sh\\necho $(id -un) fell for it\\n")
os.chmod(folder + "/bin/sinfo", 0o755)
listener = socket.socket(socket.AF_UNIX)
listener.bind(folder + "/controller")
listener.listen()
os.chmod(folder + "/controller", 0o777)
print("ready", flush=True)
end, _ = listener.accept()
while end.recv(100):
    end.sendall(bytes([0, 0, 0, 1, 0, 0, 0, 2]) + b"ok")
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's temporary folder, in which everybody may make one."""
    with open_folder() as folder:
        folder.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.delenv("DUMMY_SLURM_DIR", raising=False)
        yield folder


def _sinfo() -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fractal_backends_dummy_slurm", "sinfo", "--noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def _must_be_refused(folder: Path) -> None:
    answer = _sinfo()
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        f"{folder} is no folder of yours that only you can write; another user may have made it."
        " Let DUMMY_SLURM_DIR name a folder of your own.\n"
    )


@only_root
def test_a_cluster_that_another_user_pretends_to_be_ours(place: Path) -> None:
    folder = place / "fractal-dummy-slurm-0"
    words = ["/usr/bin/python3", "-I", "-c", _IMPOSTOR, str(folder)]
    with subprocess.Popen(words, user=_OTHER, extra_groups=[], cwd="/", stdout=subprocess.PIPE) as impostor:
        try:
            assert impostor.stdout is not None and impostor.stdout.readline() == b"ready\n"
            _must_be_refused(folder)
        finally:
            impostor.kill()


@only_root
def test_a_link_of_another_user_leads_nowhere(place: Path) -> None:
    folder, ours = place / "fractal-dummy-slurm-0", place / "ours"
    ours.mkdir(mode=0o700)
    folder.symlink_to(ours)
    os.lchown(folder, 65534, 65534)
    _must_be_refused(folder)
    assert list(ours.iterdir()) == []


def test_a_folder_that_others_can_write(place: Path) -> None:
    folder = place / f"fractal-dummy-slurm-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    _must_be_refused(folder)
    folder.chmod(0o755)
    assert _sinfo().returncode == 0


@only_root
def test_late_receipts_are_written_through_no_link(place: Path) -> None:
    """Which a job's user can put there, in a folder of its own."""
    home, precious = home_of(_OTHER, place), place / "precious"
    precious.write_text("ours\n")
    faults = {"plan": [{"fault": "late_receipts", "seconds": 0.5}]}
    script = f"#!/bin/sh\necho theirs >>job.receipt\nln -s {precious} job.receipt.arriving\n"
    with Lease(place / "cluster", {"faults": faults}) as lease:
        subprocess.run(
            [lease.commands / "sbatch", "--output=job.out"],
            input=script,
            text=True,
            user=_OTHER,
            extra_groups=[],
            cwd=home,
            check=True,
            capture_output=True,
        )
        receipt = home / "job.receipt"
        assert eventually(lambda: receipt.is_file() and not receipt.is_symlink(), 20)
    assert receipt.read_text() == "theirs\n"
    assert (precious.read_text(), precious.owner()) == ("ours\n", "root")
    assert owners(home) == {_OTHER}


def test_a_cluster_that_was_kept_has_its_settings_and_nodes(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    main = {"name": "main", "nodes": "ALL", "default": True}
    settings = [{"nodes": [{"name": name}], "partitions": [main]} for name in ("old", "new")]
    with Lease(folder, settings[0], keep=True) as lease:
        drain = ["update", "nodename=old", "state=drain", "reason=test"]
        subprocess.run([lease.commands / "scontrol", *drain], check=True)
    with Lease(folder, settings[1], keep=True) as lease:
        assert lease.settings() == settings[0]
        words = [str(lease.commands / "sinfo"), "--noheader", "--format=%N %T"]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "old drained\n"


def test_a_cluster_that_cannot_start_is_given_up(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    with Lease(folder, {}, keep=True):
        pass
    (folder / "journal").write_text("nonsense\n")
    with pytest.raises(DummySlurmError) as caught:
        Lease(folder, {})
    assert str(caught.value) == (
        f"The controller in {folder} ends as soon as it is started: json.decoder.JSONDecodeError: "
        f"Expecting value: line 1 column 1 (char 0). See {folder}/log."
    )
    assert (folder / "log").read_text().count("Traceback") == 3


@pytest.mark.parametrize("folder", ["/proc/cluster", "/dev/null/cluster"])
def test_a_folder_that_cannot_be_made(folder: str) -> None:
    with pytest.raises(DummySlurmError, match=f"^{folder} cannot be made: "):
        Lease(Path(folder), {})
