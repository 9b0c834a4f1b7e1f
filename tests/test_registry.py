"""Backends by name, with real distributions on disk: metadata folders and modules on the import path."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fractal_backends
from fractal_backends import INTERFACE_VERSION, get_backend
from fractal_backends.errors import (
    BrokenBackendError,
    DuplicateBackendError,
    InterfaceVersionError,
    UnknownBackendError,
)
from fractal_backends.registry import get_backend_class
from tests.helpers.sites import GOOD, Site, states


@pytest.fixture
def nothing_installed() -> Iterator[None]:
    """Hides what the environment of the tests has, this project's own backends among it."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if not list(Path(path or ".").glob("*.dist-info"))]
    yield
    sys.path[:] = before


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
    assert states(name) == {"plugin": "installed"}
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
    assert states("late") == {}
    site.install("plugin", "late")
    assert states("late") == {"plugin": "installed"}
    assert isinstance(get_backend("late"), fractal_backends.StandardBackend)
