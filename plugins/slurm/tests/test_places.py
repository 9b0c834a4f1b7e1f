"""Files in a folder of their own, reached with tar, where that goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fractal_backends_slurm.places import OtherPlace, PlaceError

from fractal_backends import Unit

LONG = "started a n1 10\n" * 100


class Remote:
    """A folder in the place of one on another machine; `before`: what is called in the place of sudo."""

    def __init__(self, folder: Path, before: list[str]) -> None:
        self.local, self.remote = folder / "local", folder / "remote"
        self.folder = self.remote / "task"
        for path in (self.local / "task", self.folder):
            path.mkdir(parents=True)
        self.place = OtherPlace(self.local, self.remote, None, as_user=lambda user: before)

    def unit(self, label: str) -> Unit:
        return Unit(0, 0, str(self.local / "task" / label), ("true",))


CUT_OFF = ["sh", "-c", '"$@" | head -c {}', "sh"]
"""As a tar that is killed, in the middle of a file or before it."""


@pytest.fixture(params=[700, 1500])
def cut_off(tmp_path: Path, request: pytest.FixtureRequest) -> Remote:
    return Remote(tmp_path, [word.format(request.param) for word in CUT_OFF])


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


@pytest.mark.parametrize(
    "make", [_folder, os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["folder", "pipe", "device"]
)
def test_what_is_no_file_in_the_place_of_an_output(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Is no output where it is brought to, either, and is not read."""
    remote = Remote(tmp_path, [])
    make(remote.folder / "a.metadiff.json")
    for label in "ab":
        (remote.folder / f"{label}.log").write_text(label)
    for _ in range(2):
        remote.place.fetch([remote.unit("a"), remote.unit("b")])
    found = {path.name: path.is_file() for path in (remote.local / "task").iterdir()}
    assert found == {"a.log": True, "a.metadiff.json": False, "b.log": True}


def test_an_output_that_is_a_link(tmp_path: Path) -> None:
    remote = Remote(tmp_path, [])
    (remote.folder / "elsewhere").write_text("{}")
    (remote.folder / "a.metadiff.json").symlink_to("elsewhere")
    (remote.folder / "b.metadiff.json").hardlink_to(remote.folder / "elsewhere")
    remote.place.fetch([remote.unit("a"), remote.unit("b")])
    for label in "ab":
        path = remote.local / "task" / f"{label}.metadiff.json"
        assert (path.read_text(), path.is_symlink()) == ("{}", False)


def test_files_full_of_holes_take_no_room(tmp_path: Path) -> None:
    remote = Remote(tmp_path, [])
    with (remote.folder / "a.log").open("wb") as log:
        log.write(b"begin")
        log.seek(30 << 30)
        log.write(b"end")
    with (remote.folder / "a.metadiff.json").open("wb") as output:
        output.truncate(20 << 30)
    remote.place.fetch([remote.unit("a")])
    log_file, output_file = (remote.local / "task" / f"a.{what}" for what in ("log", "metadiff.json"))
    assert (log_file.stat().st_size, output_file.stat().st_size) == ((30 << 30) + 3, 20 << 30)
    assert all(path.stat().st_blocks < 10_000 for path in (log_file, output_file))
    with log_file.open("rb") as log:
        assert log.read(6) == b"begin\0"
        log.seek(-4, os.SEEK_END)
        assert log.read() == b"\0end"


def test_tar_is_killed_while_it_brings_files(cut_off: Remote) -> None:
    (cut_off.folder / "a.log").write_text(LONG)
    with pytest.raises(PlaceError, match=r"Cannot read .*/task: unexpected end of data"):
        cut_off.place.fetch([cut_off.unit("a")])
    assert list((cut_off.local / "task").iterdir()) == []


def test_tar_is_killed_while_it_reads(cut_off: Remote) -> None:
    (cut_off.folder / "7_0.receipt").write_text(LONG)
    assert list(cut_off.place.receipts(cut_off.folder)) == []
    assert cut_off.place.text(cut_off.folder / "7_0.receipt") == ""


def test_receipts_that_are_not_wanted_any_more_are_not_brought(tmp_path: Path) -> None:
    remote = Remote(tmp_path, ["sh", "-c", f'"$@" | tee {tmp_path}/archive', "sh"])
    for index in range(2):
        (remote.folder / f"7_{index}.receipt").write_text(LONG)
    found = dict(remote.place.receipts(remote.folder, {"7_0.receipt"}))
    assert found.keys() == {"7_1.receipt"}
    assert b"7_0" not in (tmp_path / "archive").read_bytes()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    remote = Remote(tmp_path, ["/nowhere/sudo"])
    (remote.local / "task" / "a.args.json").write_text("{}")
    assert remote.place.obstacle is None
    remote.place.remove(remote.folder)
    with pytest.raises(PlaceError, match=r"Cannot read .*/nowhere/sudo"):
        remote.place.fetch([remote.unit("a")])
    with pytest.raises(PlaceError, match=r"Cannot write to .*/nowhere/sudo"):
        remote.place.put(remote.folder / "x", {"units": b"a\n"}, [remote.unit("a")])
