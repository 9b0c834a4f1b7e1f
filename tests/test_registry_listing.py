"""Which backends are listed, with real distributions on disk: well-formed ones, copies, broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fractal_backends import BackendInfo, BackendState, available_backends, get_backend
from fractal_backends.errors import (
    BrokenBackendError,
    DuplicateBackendError,
    RegistryError,
    UnknownBackendError,
)
from tests.helpers.sites import GOOD, NewSite, Site, states


def _listed(*distributions: str) -> list[BackendInfo]:
    return [info for info in available_backends() if info.distribution in distributions]


# Listing


def test_a_listing_tells_what_the_metadata_has(site: Site) -> None:
    site.metadata("plugin-b", "zeta = b.deep.module:Class.nested", "alpha=b:Alpha", version="2.3rc1")
    site.metadata("plugin-a", "middle = a : Middle")
    assert _listed("plugin-a", "plugin-b") == [
        BackendInfo("alpha", "plugin-b", "2.3rc1", "b:Alpha", BackendState.INSTALLED),
        BackendInfo("middle", "plugin-a", "1.0", "a : Middle", BackendState.INSTALLED),
        BackendInfo("zeta", "plugin-b", "2.3rc1", "b.deep.module:Class.nested", BackendState.INSTALLED),
    ]


def test_the_real_local_backend_is_listed_and_can_be_had() -> None:
    (info,) = (info for info in available_backends() if info.name == "local")
    assert (info.distribution, info.state) == ("fractal-backends-local", BackendState.INSTALLED)
    assert get_backend("local").name == "local"


def test_two_distributions_with_one_name_are_duplicates_and_harm_no_other(site: Site) -> None:
    entry_point = f"{site.module(GOOD)}:Good"
    site.metadata("first", f"same = {entry_point}", f"own = {entry_point}")
    site.metadata("second", f"same = {entry_point}")
    assert states("same") == {"first": "duplicate", "second": "duplicate"}
    assert states("own") == {"first": "installed"}
    assert get_backend("own").name == "good"


def test_one_distribution_that_gives_a_name_twice_offers_a_duplicate(site: Site) -> None:
    site.metadata("twice", "same = a:A", "same = b:B")
    assert [info.state for info in _listed("twice")] == [BackendState.DUPLICATE] * 2
    with pytest.raises(DuplicateBackendError, match=r"twice 1\.0"):
        get_backend("same")


MALFORMED_VALUES = ["module", "module:", ":attribute", "", "mod ule:attribute", "module:attri-bute", "a:b:c"]


@pytest.mark.parametrize("value", MALFORMED_VALUES)
def test_an_entry_point_of_another_form_is_malformed(site: Site, value: str) -> None:
    site.metadata("plugin", f"odd = {value}")
    (info,) = _listed("plugin")
    assert (info.name, info.entry_point, info.state) == ("odd", value, BackendState.MALFORMED)
    with pytest.raises(BrokenBackendError) as caught:
        get_backend("odd")
    for part in ("'odd'", "plugin 1.0", repr(value), "module:attribute"):
        assert part in str(caught.value)


def test_a_malformed_entry_point_makes_no_duplicate(site: Site) -> None:
    site.metadata("malformed", "name = not a path")
    site.install("good", "name")
    assert states("name") == {"malformed": "malformed", "good": "installed"}
    assert get_backend("name").name == "good"


def test_a_listing_imports_nothing(site: Site, tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    source = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n" + textwrap.dedent(GOOD)
    entry_point = site.install("plugin", "traced", source)
    available_backends()
    assert not trace.exists()
    assert entry_point.partition(":")[0] not in sys.modules
    with pytest.raises(UnknownBackendError):
        get_backend("tracedd")
    assert not trace.exists()
    get_backend("traced")
    assert trace.exists()


def test_getting_one_backend_imports_no_other(site: Site) -> None:
    site.install("good", "good")
    other = site.install("other", "other", "raise RuntimeError('imported')")
    site.install("exiting", "exiting", "raise SystemExit(3)")
    assert get_backend("good").name == "good"
    assert other.partition(":")[0] not in sys.modules


def test_a_listing_in_a_fresh_interpreter_does_not_even_import_the_engine(site: Site) -> None:
    site.metadata("plugin", "good = nowhere:Good")
    script = (
        "import json, sys, fractal_backends as f\n"
        "names = [info.name for info in f.available_backends()]\n"
        "modules = ['fractal_backends.engine', 'fractal_backends_local', 'nowhere']\n"
        "print(json.dumps([names, [name for name in modules if name in sys.modules]]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    names, imported = json.loads(result.stdout)
    assert {"good", "local"} <= set(names)
    assert imported == []


# The same distribution more than once


@pytest.mark.parametrize("spelling", ["my-plugin", "My_Plugin", "MY.plugin"])
def test_of_one_distribution_twice_on_the_path_the_first_counts(new_site: NewSite, spelling: str) -> None:
    new_site("later").metadata(spelling, "name = nowhere:Never", version="0.9")
    new_site("earlier").install("my-plugin", "name")
    assert states("name") == {"my-plugin": "installed"}
    assert get_backend("name").name == "good"


def test_a_newer_copy_without_the_backend_hides_an_older_one_with_it(new_site: NewSite) -> None:
    new_site("later").metadata("my-plugin", "gone = nowhere:Never", version="0.9")
    new_site("earlier").metadata("my-plugin", version="1.0")
    assert states("gone") == {}


def test_a_folder_twice_on_the_path_makes_no_duplicate(site: Site) -> None:
    site.install("plugin", "name")
    sys.path.append(f"{site.path}/.")
    assert states("name") == {"plugin": "installed"}


# Broken metadata

_ENTRY = "[fractal_backends]\nhurt = nowhere:Hurt\n"


def _no_metadata_file(folder: Path) -> None:
    (folder / "METADATA").unlink()


def _empty_metadata_file(folder: Path) -> None:
    (folder / "METADATA").write_text("")


def _metadata_without_name(folder: Path) -> None:
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nVersion: 1\n")


def _metadata_without_version(folder: Path) -> None:
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\n")


def _binary_metadata(folder: Path) -> None:
    (folder / "METADATA").write_bytes(bytes(range(256)))


def _binary_entry_points(folder: Path) -> None:
    (folder / "entry_points.txt").write_bytes(_ENTRY.encode() + b"\xff\xfe\x00")


def _line_without_value(folder: Path) -> None:
    (folder / "entry_points.txt").write_text(_ENTRY + "no value here\n")


def _entries_without_section(folder: Path) -> None:
    (folder / "entry_points.txt").write_text("fractal_backends\nhurt = nowhere:Hurt\n")


def _entry_points_is_a_folder(folder: Path) -> None:
    (folder / "entry_points.txt").unlink()
    (folder / "entry_points.txt").mkdir()


def _metadata_is_a_file(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("")


def _metadata_is_a_dangling_link(folder: Path) -> None:
    _metadata_is_a_file(folder)
    folder.unlink()
    folder.symlink_to(folder.parent / "nowhere")


LISTED_ALL_THE_SAME = [
    _no_metadata_file,
    _empty_metadata_file,
    _metadata_without_name,
    _metadata_without_version,
    _binary_metadata,
    _binary_entry_points,
    _line_without_value,
]
BEYOND_LISTING = [
    _entries_without_section,
    _entry_points_is_a_folder,
    _metadata_is_a_file,
    _metadata_is_a_dangling_link,
]


@pytest.mark.parametrize("damage", LISTED_ALL_THE_SAME + BEYOND_LISTING)
def test_broken_metadata_harms_nobody_else(site: Site, damage: Callable[[Path], None]) -> None:
    damage(site.metadata("broken", "hurt = nowhere:Hurt"))
    site.install("good", "good")
    assert states("good") == {"good": "installed"}
    assert get_backend("good").name == "good"


@pytest.mark.parametrize("damage", LISTED_ALL_THE_SAME)
def test_a_backend_with_broken_metadata_does_not_vanish(site: Site, damage: Callable[[Path], None]) -> None:
    before = available_backends()
    damage(site.metadata("broken", "hurt = nowhere:Hurt"))
    found = [info for info in available_backends() if info not in before]
    assert found, "a distribution that names the group is not listed at all"
    assert "broken" in found[0].distribution
    with pytest.raises(RegistryError) as caught:
        get_backend(found[0].name)
    assert not isinstance(caught.value, UnknownBackendError)
