"""Backends by name, with real distributions on disk: metadata folders and modules on the import path."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fractal_backends
from fractal_backends import (
    INTERFACE_VERSION,
    BackendInfo,
    BackendState,
    available_backends,
    get_backend,
)
from fractal_backends.errors import (
    BrokenBackendError,
    DuplicateBackendError,
    InterfaceVersionError,
    RegistryError,
    UnknownBackendError,
)
from fractal_backends.registry import get_backend_class

GOOD = """
    from fractal_backends import Backend

    class Good(Backend):
        name = "good"
        interface_version = {version}

        def open(self, run):
            raise NotImplementedError
"""

_modules = itertools.count()


class Site:
    """A folder on the import path, and what is installed there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, source: str) -> str:
        """A new module's name; no test sees another one's modules."""
        name = f"registry_test_plugin_{next(_modules)}"
        text = textwrap.dedent(source).replace("{version}", str(INTERFACE_VERSION))
        (self.path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    def metadata(self, distribution: str, *entries: str, version: str = "1.0") -> Path:
        """The metadata folder of a distribution that offers backends, `name = module:attribute` each."""
        folder = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lines = ["[console_scripts]", "some-tool = nowhere:main", "[fractal_backends]", *entries]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    def install(self, distribution: str, name: str, source: str = GOOD, attribute: str = "Good") -> str:
        """A distribution with one backend; returns its entry point."""
        entry_point = f"{self.module(source)}:{attribute}"
        self.metadata(distribution, f"{name} = {entry_point}")
        return entry_point


NewSite = Callable[[str], Site]


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[NewSite]:
    """Makes folders on the import path; the one made last comes first there."""

    def make(name: str) -> Site:
        path = tmp_path / name
        path.mkdir()
        sys.path.insert(0, str(path))
        return Site(path)

    path, modules = list(sys.path), set(sys.modules)
    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("registry_test_plugin_"):
            del sys.modules[name]


@pytest.fixture
def site(new_site: NewSite) -> Site:
    return new_site("site")


@pytest.fixture
def nothing_installed() -> Iterator[None]:
    """Hides what the environment of the tests has, this project's own backends among it."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if not list(Path(path or ".").glob("*.dist-info"))]
    yield
    sys.path[:] = before


def _listed(*distributions: str) -> list[BackendInfo]:
    return [info for info in available_backends() if info.distribution in distributions]


def _states(name: str) -> dict[str, str]:
    return {info.distribution: str(info.state) for info in available_backends() if info.name == name}


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
    assert _states("same") == {"first": "duplicate", "second": "duplicate"}
    assert _states("own") == {"first": "installed"}
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
    assert _states("name") == {"malformed": "malformed", "good": "installed"}
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
    assert _states("name") == {"my-plugin": "installed"}
    assert get_backend("name").name == "good"


def test_a_newer_copy_without_the_backend_hides_an_older_one_with_it(new_site: NewSite) -> None:
    new_site("later").metadata("my-plugin", "gone = nowhere:Never", version="0.9")
    new_site("earlier").metadata("my-plugin", version="1.0")
    assert _states("gone") == {}


def test_a_folder_twice_on_the_path_makes_no_duplicate(site: Site) -> None:
    site.install("plugin", "name")
    sys.path.append(f"{site.path}/.")
    assert _states("name") == {"plugin": "installed"}


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
    assert _states("good") == {"good": "installed"}
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


# Getting one


def test_a_backend_is_given_options_and_observers(site: Site) -> None:
    site.install("plugin", "good")
    observer = object()
    backend = get_backend("good", options={"key": 1}, observers=iter([observer]))
    assert backend.options == {"key": 1}
    assert backend.observers == [observer]
    assert get_backend_class("good") is type(backend)


def test_an_unknown_name_lists_what_is_installed_and_the_nearest(site: Site) -> None:
    site.install("plugin", "my_cluster")
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("my_clutser")
    message = str(caught.value)
    assert "'my_clutser'" in message
    assert re.search(r"Installed: (\w+, )*local, my_cluster(, \w+)*\.", message)
    assert "Did you mean 'my_cluster'?" in message
    assert "pip install" not in message


def test_a_name_unlike_any_other_gets_no_guess(site: Site) -> None:
    with pytest.raises(UnknownBackendError, match=r"'qqqqqq'\. Installed: [\w, ]*local[\w, ]*\.$"):
        get_backend("qqqqqq")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("asked", ["local", "locla"])
def test_the_error_says_how_to_install_a_known_backend(site: Site, asked: str) -> None:
    site.install("plugin", "other")
    with pytest.raises(UnknownBackendError) as caught:
        get_backend(asked)
    assert "Installed: other." in str(caught.value)
    assert "To get 'local': pip install fractal-backends-local" in str(caught.value)
    assert "Did you mean 'local'" not in str(caught.value), "it cannot be had as it is"


@pytest.mark.usefixtures("nothing_installed")
def test_where_nothing_is_installed_the_error_says_what_there_is() -> None:
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("anything")
    assert "Installed: none." in str(caught.value)
    assert "pip install fractal-backends-local" in str(caught.value)


def test_a_name_of_two_distributions_names_both(site: Site) -> None:
    site.install("first-plugin", "same")
    site.metadata("second-plugin", "same = nowhere:Never", version="7.1")
    with pytest.raises(DuplicateBackendError) as caught:
        get_backend("same")
    for part in ("'same'", "first-plugin 1.0", "second-plugin 7.1"):
        assert part in str(caught.value)


BROKEN_MODULES = {
    "a missing module": ("import no_module_of_this_name", "no_module_of_this_name"),
    "a missing name": ("from json import no_name_of_this_kind", "no_name_of_this_kind"),
    "an error": ("raise ValueError('the licence has run out')", "ValueError: the licence has run out"),
    "no Python": ("class Good(:\n    pass", "SyntaxError"),
    "an exit": ("import sys\nsys.exit('needs another machine')", "needs another machine"),
    "an exit code": ("raise SystemExit(3)", "SystemExit: 3"),
    "another attribute": ("Other = 1", "'Good'"),
    "an error when made": (
        GOOD + "\n        def __init__(self, **_): raise OSError('no scheduler here')",
        "OSError: no scheduler here",
    ),
    "an exit when made": (GOOD + "\n        def __init__(self, **_): raise SystemExit(4)", "SystemExit: 4"),
    "a recursion": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN_MODULES.values(), ids=BROKEN_MODULES)
def test_a_broken_plugin_is_named_with_its_reason(site: Site, source: str, reason: str) -> None:
    entry_point = site.install("broken-plugin", "hurt", source)
    site.install("good", "good")
    with pytest.raises(BrokenBackendError) as caught:
        get_backend("hurt")
    for part in ("'hurt'", entry_point, "broken-plugin 1.0", reason):
        assert part in str(caught.value)
    assert caught.value.__cause__ is not None
    assert get_backend("good").name == "good"


@pytest.mark.parametrize("module", ["registry_test_plugin_missing", "1a", ".", "a..b"])
def test_a_module_that_cannot_be_found_is_a_broken_backend(site: Site, module: str) -> None:
    site.metadata("plugin", f"hurt = {module}:Good")
    with pytest.raises(BrokenBackendError, match=r"plugin 1\.0"):
        get_backend("hurt")


def test_a_plugin_may_be_interrupted(site: Site) -> None:
    site.install("plugin", "slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        get_backend("slow")


NO_BACKENDS = {
    "a number": "Good = 3",
    "a function": "def Good(): pass",
    "a module": "import json as Good",
    "another class": "class Good:\n    interface_version = {version}",
    "a run that cannot be called": "class Good:\n    interface_version = {version}\n    process_workflow = 1",
    "nothing": "Good = None",
}


@pytest.mark.parametrize("source", NO_BACKENDS.values(), ids=NO_BACKENDS)
def test_an_entry_point_must_be_a_backend(site: Site, source: str) -> None:
    entry_point = site.install("plugin", "odd", source)
    with pytest.raises(BrokenBackendError) as caught:
        get_backend("odd")
    for part in ("'odd'", entry_point, "plugin 1.0", "process_workflow"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("version", "install"),
    [(INTERFACE_VERSION + 1, "newer fractal-backends"), (INTERFACE_VERSION - 1, "newer plugin")],
)
def test_another_interface_version_is_refused_with_both(site: Site, version: int, install: str) -> None:
    site.install("plugin", "odd", GOOD.replace("{version}", str(version)))
    with pytest.raises(InterfaceVersionError) as caught:
        get_backend("odd")
    for part in ("'odd'", "plugin 1.0", f"version {version} ", f"version {INTERFACE_VERSION}", install):
        assert part in str(caught.value)


@pytest.mark.parametrize("line", ["", 'interface_version = "1"', "interface_version = None"])
def test_a_backend_must_say_which_interface_it_speaks(site: Site, line: str) -> None:
    site.install("plugin", "odd", GOOD.replace("interface_version = {version}", line))
    with pytest.raises(BrokenBackendError, match=f"interface_version = {INTERFACE_VERSION}"):
        get_backend("odd")


def test_an_incomplete_class_is_told_what_it_lacks(site: Site) -> None:
    site.install("plugin", "odd", GOOD.replace("def open", "def opening"))
    with pytest.raises(BrokenBackendError, match=r"'odd' .*plugin 1\.0.* lacks open$"):
        get_backend("odd")
    with pytest.raises(BrokenBackendError):
        get_backend_class("odd")


def test_an_entry_point_may_be_an_object(site: Site) -> None:
    entry_point = site.install("plugin", "object", GOOD + "\n    good = Good()", attribute="good")
    backend = get_backend("object")
    assert backend is sys.modules[entry_point.partition(":")[0]].good
    assert get_backend_class("object") is type(backend)
    for given in ({"options": {"key": 1}}, {"observers": [object()]}):
        with pytest.raises(BrokenBackendError, match="takes no options or observers"):
            get_backend("object", **given)


@pytest.mark.parametrize(
    "name", ["größe", "my cluster", "a.b/c", "-x", "'quoted'", "{name}", "%s", "バックエンド"]
)
def test_names_with_odd_characters(site: Site, name: str) -> None:
    site.install("plugin", name)
    assert _states(name) == {"plugin": "installed"}
    assert get_backend(name).name == "good"
    with pytest.raises(UnknownBackendError) as caught:
        get_backend(f"{name}x")
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", " ", "local ", "LOCAL", "a\nb", "[fractal_backends]", "\0", "x" * 10_000]
)
def test_names_that_nobody_has(name: str) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        get_backend(name)
    assert repr(name) in str(caught.value)


def test_what_is_installed_later_in_the_same_process_is_found(site: Site) -> None:
    assert _states("late") == {}
    site.install("plugin", "late")
    assert _states("late") == {"plugin": "installed"}
    assert isinstance(get_backend("late"), fractal_backends.StandardBackend)
