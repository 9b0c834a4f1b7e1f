"""The suite inside pytest: options, fixtures, and what becomes of a failure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..errors import FractalBackendsError, InvalidInputError
from . import processes
from .declared import Declared
from .requirements import SUITE_VERSION, Requirement, areas, requirements
from .settings import DEADLINE_S, Chance, Settings
from .subject import Deadline, Run, Runner, Subject
from .violations import Violation, paragraph

LIFE_VARIABLE = "CONFORMANCE_LIFE_S"
"""Tells units how long they live at most (see `task_program`)."""
_RUNS = 20
"""So many a failure's story tells of."""
_RUN = pytest.StashKey["Judge"]()


@dataclass
class TestResult:
    """How one test went."""

    __test__ = False

    requirement: Requirement
    outcome: str
    """passed, failed or skipped"""
    reason: str
    seconds: float


@dataclass
class Judge:
    """What a session knows: whom it judges, with what, and the results so far."""

    declared: Declared
    settings: Settings
    chance: Chance
    deadline_s: float
    in_process: bool
    results: list[TestResult] = field(default_factory=list)
    planned: Counter[str] = field(default_factory=Counter)
    """How many tests each requirement has here."""
    on_result: Callable[[Judge], None] = lambda _: None
    problem: str = ""
    """Why the session could not go on, if it could not."""

    @property
    def life_s(self) -> int:
        """How long units live at most: as long as a test may wait for them."""
        return round(max(DEADLINE_S, self.deadline_s) + 2 * self.settings.time_limit_s)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite's own options."""
    group = parser.getgroup("fractal-backends conformance")
    group.addoption("--backend", metavar="NAME", help="The backend to judge, as in `fractal-backends list`.")
    group.addoption("--backend-options", metavar="FILE", help="JSON: what to judge it with (see the docs).")
    group.addoption(
        "--only", action="append", default=[], help="smoke, an area, or a requirement; repeatable."
    )
    group.addoption("--deadline", type=float, default=DEADLINE_S, help="Seconds that each test has.")
    group.addoption("--examples", type=int, metavar="N", help="Random examples for each test that has some.")
    group.addoption("--seed", type=int, help="Other random examples than the usual ones.")
    group.addoption(
        "--in-process", action="store_true", help="Run the backend in pytest's process, to debug it."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the backend, and read what it is to be judged with."""
    config.addinivalue_line("markers", "requirement(id): what the test judges")
    config.addinivalue_line("markers", "smoke: part of the quick selection")
    for area in areas():
        config.addinivalue_line("markers", f"{_as_marker(area.key)}: the area {area.name}")
    name = config.getoption("--backend")
    if not name:
        raise pytest.UsageError("Which backend? Add --backend NAME, one of `fractal-backends list`.")
    try:
        declared = Declared.load(name, config.getoption("--deadline"))
        settings = Settings.read(config.getoption("--backend-options"))
        declared.check_options(settings.options, str(config.getoption("--backend-options")))
        wanted(config.getoption("--only"))
    except FractalBackendsError as error:
        raise pytest.UsageError(str(error)) from None
    processes.adopt_orphans()
    chance = Chance(config.getoption("--seed"), config.getoption("--examples"))
    judge = Judge(
        declared, settings, chance, config.getoption("--deadline"), config.getoption("--in-process")
    )
    config.stash[_RUN] = judge
    config.pluginmanager.register(_Collector(judge))


def judge_of(config: pytest.Config) -> Judge:
    """The session's judge."""
    return config.stash[_RUN]


def wanted(selection: list[str]) -> set[str]:
    """The ids of the requirements that a selection names; an empty one names all.

    Raises InvalidInputError.
    """
    chosen: set[str] = set()
    by_area = {area.key: {requirement.id for requirement in area.requirements} for area in areas()}
    for word in [word.strip() for words in selection for word in words.split(",")]:
        if word == "smoke":
            chosen |= {requirement.id for requirement in requirements().values() if requirement.smoke}
        elif word.lower() in by_area:
            chosen |= by_area[word.lower()]
        elif word.upper() in requirements():
            chosen.add(word.upper())
        else:
            raise InvalidInputError(
                f"There is no requirement or area {word!r};"
                f" the areas are {', '.join(by_area)}, and there is 'smoke'"
            )
    return chosen or set(requirements())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test names its requirement and says what it does; what was not asked for is left out."""
    chosen = wanted(config.getoption("--only"))
    places = {name: place for place, name in enumerate(requirements())}
    area_of = {requirement.id: area.key for area in areas() for requirement in area.requirements}
    kept = []
    for item in items:
        marker = item.get_closest_marker("requirement")
        if marker is None or marker.args[0] not in places or not getattr(item, "obj", item).__doc__:
            raise pytest.UsageError(
                f"{item.nodeid} does not name its requirement, or does not say what it does"
            )
        requirement = requirements()[marker.args[0]]
        item.user_properties.append(("requirement", requirement.id))
        item.extra_keyword_matches.add(requirement.id)
        item.add_marker(_as_marker(area_of[requirement.id]))
        if requirement.smoke:
            item.add_marker("smoke")
        if requirement.id in chosen:
            kept.append(item)
    left_out = [item for item in items if item not in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(kept, key=lambda item: places[_requirement(item).id])
    judge_of(config).planned.update(_requirement(item).id for item in items)


def _as_marker(area: str) -> str:
    return area.replace("-", "_")


def _requirement(item: pytest.Item) -> Requirement:
    marker = item.get_closest_marker("requirement")
    assert marker is not None
    return requirements()[marker.args[0]]


class _Runners:
    """The runner that tests share; a test that failed does not hand its runner on."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self._judge = judge
        self._logs = (folder / f"{number}.log" for number in itertools.count(1))
        self._shared: Runner | None = None

    def make(self, new: bool = False, **settings: Any) -> Runner:
        """The shared runner, or a new one."""
        if self._shared and not new:
            return self._shared
        judge = self._judge
        make = partial(Runner, judge.declared.name, judge.settings.options, next(self._logs))
        env = {LIFE_VARIABLE: str(judge.life_s), **settings.pop("env", {})}
        if new:
            return make(env=env, **settings)
        self._shared = make(env=env, in_process=judge.in_process)
        return self._shared

    def drop(self) -> None:
        """End the shared runner."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None


@pytest.fixture(scope="session")
def runners(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Runners]:
    """The runner processes."""
    found = _Runners(judge_of(request.config), tmp_path_factory.mktemp("runners"))
    yield found
    found.drop()


@pytest.fixture
def subject(request: pytest.FixtureRequest, runners: _Runners, tmp_path: Path) -> Iterator[Subject]:
    """The backend under test."""
    judge = judge_of(request.config)
    capability = _requirement(request.node).capability
    if capability and capability not in judge.declared.capabilities:
        pytest.skip(f"the capability {capability} is not declared")
    deadline = Deadline(judge.deadline_s)
    subject = Subject(tmp_path, deadline, runners.make, judge.declared, judge.settings, judge.chance)
    request.node.subject = subject
    yield subject
    subject.close()
    if request.node.failed or any(not run.is_over for run in subject.runs):
        runners.drop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A violation is shown as what was done, expected and got; a new requirement only warns."""
    report = yield
    if report.when == "setup":
        item.failed = False
    if not report.failed:
        return report
    item.failed = True
    assert call.excinfo is not None
    requirement = _requirement(item)
    report.story = story(item, call.excinfo.value, str(report.longrepr))
    report.longrepr = f"{requirement.id} {requirement.title}\n{report.story}"
    if requirement.is_warning:
        report.outcome = "skipped"
        report.wasxfail = (
            f"{requirement.id} is new in suite {SUITE_VERSION}; it counts from suite {requirement.since + 1}"
        )
    return report


def story(item: Any, error: BaseException, traceback: str) -> str:
    """A failure for someone who does not know the suite."""
    subject: Subject | None = getattr(item, "subject", None)
    done = [" ".join(item.obj.__doc__.split())]
    if subject:
        done += [_told(number, run) for number, run in enumerate(subject.runs[:_RUNS], 1)]
        more = len(subject.runs) - _RUNS
        done += [f"and {more} more runs"] if more > 0 else []
    if isinstance(error, Violation):
        parts = {"done": "\n".join(done), "expected": error.expected, "got": error.got}
    else:
        expected = "results that the suite can judge"
        parts = {"done": "\n".join(done), "expected": expected, "got": traceback}
    if subject:
        parts["files"] = str(subject.folder)
    return "\n".join(paragraph(label, text) for label, text in parts.items())


def _told(number: int, run: Run) -> str:
    given = f" (given: {run.request.relative_to(run.request.parents[1])})" if run.request else ""
    return f"run {number}: {run.what}, in {run.folder}{given}"


class _Collector:
    """Keeps the results of a session."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._begun: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of a test's three parts is over."""
        seconds = self._begun[report.nodeid] = self._begun.get(report.nodeid, 0.0) + report.duration
        if report.when == "teardown" and not report.failed:
            self._begun.pop(report.nodeid)
            return
        if report.when == "setup" and report.passed:
            return
        requirement = requirements()[dict(report.user_properties)["requirement"]]  # type: ignore[index]
        self._judge.results.append(TestResult(requirement, _outcome(report), _reason(report), seconds))
        self._judge.on_result(self._judge)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of the suite cannot be imported."""
        if report.failed:
            self._judge.problem = str(report.longrepr)

    def pytest_internalerror(self, excrepr: object) -> None:
        """The suite itself is broken."""
        self._judge.problem = str(excrepr)


def _outcome(report: pytest.TestReport) -> str:
    return "failed" if hasattr(report, "wasxfail") else report.outcome


def _reason(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return "" if report.passed else str(getattr(report, "story", report.longrepr))
