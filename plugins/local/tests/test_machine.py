"""What units ask for, weighed against what the machine has."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from fractal_backends_local import machine as module
from fractal_backends_local.machine import Machine, this_machine

from conftest import DEADLINE_S, eventually


class Unit:
    """A thread that holds a share of a machine until it is told to end."""

    def __init__(self, machine: Machine, cores: int, memory_mb: int, wait: bool, runs: list[Unit]) -> None:
        self._machine, self._asks, self._wait, self._runs = machine, (cores, memory_mb), wait, runs
        self._looked = 0
        self._given_up = False
        self._started, self._may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._hold)
        self.thread.start()

    def _hold(self) -> None:
        with self._machine.share(*self._asks, wait=self._wait, given_up=self._look):
            self._runs.append(self)
            self._started.set()
            assert self._may_end.wait(DEADLINE_S)

    def _look(self) -> bool:
        self._looked += 1
        return self._given_up

    def starts(self) -> bool:
        return self._started.wait(DEADLINE_S)

    def waits(self) -> bool:
        """Whether it is still in line: only a unit that is looks again when it is woken."""
        if not eventually(lambda: self._looked > 0):
            return False
        for _ in range(2):  # after the first time it might have found that it fits
            before = self._looked
            self._machine.wake()
            if not eventually(lambda: self._looked > before, 2):  # noqa: B023 - called at once
                return False
        return not self._started.is_set()

    def give_up(self) -> None:
        self._given_up = True
        self._machine.wake()

    def end(self) -> None:
        self._may_end.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


class Yard:
    """A machine and the units on it."""

    def __init__(self, cores: int = 4, memory_mb: int = 1_000) -> None:
        self.machine = Machine(cores, memory_mb)
        self.units: list[Unit] = []
        self.runs: list[Unit] = []
        """In the order in which they got their shares."""

    def start(self, cores: int = 1, memory_mb: int = 0, wait: bool = True) -> Unit:
        self.units.append(Unit(self.machine, cores, memory_mb, wait, self.runs))
        return self.units[-1]

    def close(self) -> None:
        for unit in self.units:
            unit.give_up()
        for unit in self.units:
            unit.end()


@pytest.fixture
def yard() -> Iterator[Yard]:
    yard = Yard()
    yield yard
    yard.close()


RESOURCES: dict[str, Callable[[int], tuple[int, int]]] = {
    "cores": lambda quarters: (quarters, 0),
    "memory": lambda quarters: (0, quarters * 250),
    "both": lambda quarters: (quarters, quarters * 250),
}
"""What a unit asks for that wants some quarters of the machine."""

each_resource = pytest.mark.parametrize("ask", RESOURCES.values(), ids=list(RESOURCES))
Ask = Callable[[int], tuple[int, int]]


@each_resource
def test_what_fits_runs_and_what_does_not_waits(yard: Yard, ask: Ask) -> None:
    first, second = yard.start(*ask(2)), yard.start(*ask(2))
    assert first.starts()
    assert second.starts()
    third = yard.start(*ask(1))
    assert third.waits()
    second.end()
    assert third.starts()
    fourth = yard.start(*ask(2))
    assert fourth.waits()
    third.end()
    assert fourth.starts()


@pytest.mark.parametrize("scarce", [(1, 900), (4, 10)])
def test_cores_and_memory_must_both_be_free(yard: Yard, scarce: tuple[int, int]) -> None:
    first = yard.start(*scarce)
    assert first.starts()
    other = yard.start(1, 101)
    assert other.waits()
    first.end()
    assert other.starts()


@each_resource
def test_a_large_request_is_not_starved_by_small_ones(yard: Yard, ask: Ask) -> None:
    small = yard.start(*ask(1))
    assert small.starts()
    large = yard.start(*ask(4))
    assert large.waits()
    later = [yard.start(*ask(1)) for _ in range(3)]
    assert all(unit.waits() for unit in later), "they fit, but the large one came before"
    small.end()
    assert large.starts()
    assert all(unit.waits() for unit in later)
    large.end()
    assert all(unit.starts() for unit in later)


def test_who_came_first_is_served_first() -> None:
    yard = Yard(cores=1)
    units = []
    for _ in range(12):
        units.append(yard.start())
        assert units[-1].starts() if len(units) == 1 else units[-1].waits()
    for unit in units:
        assert unit.starts()
        unit.end()
    assert yard.runs == units


def test_all_in_line_that_fit_start_at_once(yard: Yard) -> None:
    large = yard.start(4)
    assert large.starts()
    others = [yard.start(1) for _ in range(5)]
    assert all(unit.waits() for unit in others)
    large.end()
    assert eventually(lambda: len(yard.runs) == 1 + 4)
    assert sum(unit.waits() for unit in others if unit not in yard.runs) == 1


@pytest.mark.parametrize("excess", [(5, 0), (1, 1_001), (10**6, 10**9)])
def test_one_may_always_run_but_only_alone(yard: Yard, excess: tuple[int, int]) -> None:
    assert yard.machine.exceeded_by(*excess)
    first = yard.start(*excess)
    assert first.starts()
    beside = yard.start(1, 1)
    assert beside.waits()
    first.end()
    assert beside.starts()
    second = yard.start(*excess)
    assert second.waits()
    beside.end()
    assert second.starts()
    third = yard.start(*excess)
    assert third.waits()
    second.end()
    assert third.starts()


def test_what_the_machine_has_is_not_exceeded_by_it() -> None:
    machine = Machine(4, 1_000)
    assert not machine.exceeded_by(4, 1_000)
    assert not machine.exceeded_by(0, 0)


def test_who_gives_up_waits_no_longer_and_others_take_the_place(yard: Yard) -> None:
    running = yard.start(3)
    assert running.starts()
    large, small = yard.start(4), yard.start(1)
    assert large.waits()
    assert small.waits()
    large.give_up()
    assert large.starts(), "it goes on, to find that it was cancelled"
    large.end()
    assert small.starts()


def test_who_gives_up_in_the_middle_of_the_line_leaves_it(yard: Yard) -> None:
    running = yard.start(4)
    assert running.starts()
    first = yard.start(2)
    assert first.waits()
    second = yard.start(4)
    assert second.waits()
    third = yard.start(2)
    assert third.waits()
    second.give_up()
    assert second.starts()
    second.end()
    assert first.waits()
    assert third.waits()
    running.end()
    assert first.starts()
    assert third.starts()


def test_who_gave_up_before_does_not_wait(yard: Yard) -> None:
    assert yard.start(4).starts()
    with yard.machine.share(4, 0, wait=True, given_up=lambda: True):
        pass
    assert yard.start(1).waits(), "nothing of it is left"


def test_explicit_units_do_not_wait_but_count(yard: Yard) -> None:
    assert yard.start(4).starts()
    waiting = yard.start(1)
    assert waiting.waits()
    explicit = [yard.start(3, wait=False) for _ in range(3)]
    assert all(unit.starts() for unit in explicit), "neither the machine nor the line holds them"
    assert waiting.waits()
    yard.units[0].end()
    explicit[0].end()
    assert waiting.waits(), "two explicit ones hold six cores of four"
    explicit[1].end()
    assert waiting.starts()


@pytest.mark.parametrize("wait", [True, False])
def test_a_share_is_given_back_whatever_happens(yard: Yard, wait: bool) -> None:
    for _ in range(3):
        with (
            pytest.raises(KeyError),
            yard.machine.share(4, 1_000, wait=wait, given_up=lambda: False),
        ):
            raise KeyError
    assert yard.start(4, 1_000).starts()
    assert yard.start().waits()


def test_waking_gives_nothing_away(yard: Yard) -> None:
    assert yard.start(4).starts()
    waiting = yard.start(1)
    for _ in range(100):
        yard.machine.wake()
    assert waiting.waits()


def test_many_threads_never_hold_more_than_there_is() -> None:
    machine = Machine(5, 700)
    lock = threading.Lock()
    held: list[tuple[int, int]] = []
    wrong: list[list[tuple[int, int]]] = []

    def hold(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(60):
            asks = (choose.randint(0, 7), choose.randint(0, 900))
            with machine.share(*asks, wait=True, given_up=lambda: False):
                with lock:
                    held.append(asks)
                    too_many = sum(cores for cores, _ in held) > 5 or sum(mb for _, mb in held) > 700
                    if too_many and len(held) > 1:
                        wrong.append(list(held))
                with lock:
                    held.remove(asks)

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(hold, range(10)))
    assert wrong == []
    assert held == []
    with machine.share(5, 700, wait=True, given_up=lambda: False):
        pass


def test_all_threads_share_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that ask first, at once."""
    begun = threading.Barrier(4)

    def slow(cores: int, memory_mb: int) -> Machine:
        time.sleep(0.1)
        return Machine(cores, memory_mb)

    monkeypatch.setattr(module, "_measured", cache(module._measured.__wrapped__))
    monkeypatch.setattr(module, "Machine", slow)

    def ask(_: int) -> Machine:
        begun.wait(10)
        return this_machine()

    with ThreadPoolExecutor(4) as threads:
        machines = list(threads.map(ask, range(4)))
    assert all(machine is machines[0] for machine in machines)


LIMITS = {"no limit": ("max\n", None), "a limit": ("536870912\n", 512), "no number": ("", None)}


@pytest.mark.parametrize(("text", "expected"), LIMITS.values(), ids=list(LIMITS))
def test_this_machine_is_what_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None
) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    (tmp_path / "limit").write_text(text)
    monkeypatch.setattr(module, "_CGROUP_LIMITS", (str(tmp_path / "limit"), str(tmp_path / "missing")))
    machine = module._measured.__wrapped__()
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_mb == (expected or physical)
