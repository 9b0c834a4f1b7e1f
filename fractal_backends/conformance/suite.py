"""`check`: judge a backend, and say how it went."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from importlib_metadata import version

from ..errors import FractalBackendsError
from . import session
from .declared import Declared
from .report import INTERRUPTED, NOT_SELECTED, Judgement, Report, Verdict
from .requirements import Requirement, requirements
from .settings import DEADLINE_S, Chance, Settings

OnResult = Callable[[session.Judge], None]

_HERE = Path(__file__).parent
_USUAL = Chance()


class SuiteError(FractalBackendsError):
    """The suite could not be run to its end; this is no verdict on the backend."""


class _Spy:
    """Gets hold of the session's judge."""

    def __init__(self, on_result: OnResult | None) -> None:
        self._on_result = on_result
        self.judge: session.Judge | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self.judge = session.judge_of(config)
        if self._on_result:
            self.judge.on_result = self._on_result


def check(
    name: str,
    *,
    options_file: Path | None = None,
    only: Sequence[str] = (),
    deadline_s: float = DEADLINE_S,
    chance: Chance = _USUAL,
    junit_file: Path | None = None,
    on_result: OnResult | None = None,
) -> Report:
    """Judge the backend of this name.

    `options_file` holds what it is judged with, as JSON (see `settings.Settings`). `only` selects areas,
    requirements or `smoke`. Each test has `deadline_s` seconds. `on_result` is told of every test that is
    over.

    Raises RegistryError, InvalidInputError, and SuiteError where the suite itself could not go on.
    """
    declared = Declared.load(name, deadline_s)
    selected = session.wanted(list(only))
    settings = Settings.read(options_file)
    declared.check_options(settings.options, str(options_file))
    folder = Path(tempfile.mkdtemp(prefix="fractal-check-"))
    started, clock = datetime.now(UTC), time.monotonic()
    set_hypothesis_home_dir(folder / "hypothesis")  # not in the working folder
    arguments = [
        *("--backend", name, "--deadline", str(deadline_s), "--basetemp", str(folder / "files")),
        *(["--backend-options", str(options_file)] if options_file else []),
        *(["--junitxml", str(junit_file)] if junit_file else []),
        *(f"--only={word}" for word in only),
        *([f"--seed={chance.seed}"] if chance.seed is not None else []),
        *([f"--examples={chance.examples}"] if chance.examples is not None else []),
    ]
    try:
        judge, interrupted = _judge(arguments, on_result)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    judgements = tuple(_judgements(judge, selected, INTERRUPTED if interrupted else "no test of it ran"))
    failed = any(judgement.verdict in (Verdict.FAILED, Verdict.WARNING) for judgement in judgements)
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return Report(
        subject=declared.as_subject(settings.options),
        judgements=judgements,
        selection=tuple(only),
        core_version=version("fractal-backends"),
        python=platform.python_version(),
        platform=platform.platform(),
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock,
        folder=str(folder) if failed else None,
        seed=chance.seed,
        examples=chance.examples,
        interrupted=interrupted,
    )


def _judge(arguments: Sequence[str], on_result: OnResult | None) -> tuple[session.Judge, bool]:
    """Run pytest; what it found, and whether it was interrupted."""
    spy = _Spy(on_result)
    own = [
        *("-c", str(_HERE / "pytest.ini"), "--rootdir", str(_HERE), "--confcutdir", str(_HERE)),
        *("-p", "no:cacheprovider", "-p", "no:terminal", "-p", session.__name__),
        *("--assert=plain", "--override-ini", "tmp_path_retention_policy=failed"),
    ]
    with _own_pytest():
        code = pytest.main([*own, *arguments, str(_HERE / "areas")], plugins=[spy])
    if spy.judge is None or spy.judge.problem:
        raise SuiteError(f"The suite could not go on ({code!r}). {spy.judge.problem if spy.judge else ''}")
    return spy.judge, code == pytest.ExitCode.INTERRUPTED


@contextmanager
def _own_pytest() -> Iterator[None]:
    """Without what its user's environment tells pytest to do or to load."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")}
    for name in kept:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(kept)


def _judgements(judge: session.Judge, selected: set[str], missing: str) -> Iterator[Judgement]:
    """One for each requirement there is. `missing`: why tests did not run, if some did not."""
    by_requirement: dict[str, list[session.TestResult]] = {}
    for result in judge.results:
        by_requirement.setdefault(result.requirement.id, []).append(result)
    for name, requirement in requirements().items():
        if name in selected:
            found = by_requirement.get(name, [])
            yield _judgement(requirement, found, missing if len(found) < judge.planned[name] else "")
        else:
            yield Judgement(requirement, Verdict.NOT_JUDGED, (NOT_SELECTED,))


def _judgement(requirement: Requirement, results: Sequence[session.TestResult], missing: str) -> Judgement:
    by_outcome: Mapping[str, list[str]] = {
        outcome: [result.reason for result in results if result.outcome == outcome]
        for outcome in ("failed", "passed", "skipped")
    }
    seconds = sum(result.seconds for result in results)
    if by_outcome["failed"]:
        verdict = Verdict.WARNING if requirement.is_warning else Verdict.FAILED
        return Judgement(requirement, verdict, tuple(by_outcome["failed"]), seconds)
    if by_outcome["passed"] and not missing:
        return Judgement(requirement, Verdict.PASSED, tuple(by_outcome["skipped"]), seconds)
    reasons = [missing] if missing else by_outcome["skipped"]
    return Judgement(requirement, Verdict.NOT_JUDGED, tuple(dict.fromkeys(reasons)), seconds)
