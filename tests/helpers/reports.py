"""Reports of the conformance suite as they might be, and a reader of the page that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser

from fractal_backends.conformance.report import Judgement, Report, Subject, Verdict
from fractal_backends.conformance.requirements import areas, requirements

STORY = """Done: a workflow of one parallel task over 3 images
  workflow_dir_local=run
Expected: 2 images
Got: 1 image

Files:
  run/images.json"""
HOSTILE = (
    "<script>alert(1)</script> \"'& [bold]x[/bold] \x1b[2J\x1b]0;title\x07\r\x00\ud800\u202e{{ 7 * 7 }} ]]>"
)
Verdicts = Mapping[str, tuple[Verdict, tuple[str, ...]]]
ALL_PASSED: Verdicts = {}
FAILURES: Verdicts = {
    "ERR-006": (Verdict.FAILED, (STORY,)),
    "HYG-001": (Verdict.FAILED, ("the first test's story", "the second test's story")),
    "FILE-007": (Verdict.WARNING, ("a story that does not count",)),
    "CAP-010": (Verdict.NOT_JUDGED, ("`readopt` is not declared",)),
    "FAULT-006": (Verdict.NOT_JUDGED, ("it takes root",)),
    "FAULT-008": (Verdict.NOT_JUDGED, ("it takes root",)),
}
NOT_JUDGED: Verdicts = {id: verdict for id, verdict in FAILURES.items() if verdict[0] is Verdict.NOT_JUDGED}
TOTAL = len(requirements())
SUBJECT = Subject(
    name="local",
    distribution="fractal-backends-local",
    version="0.1.0",
    interface_version=1,
    capabilities=("worker_init", "memory_limit", "teleport"),
    arguments={"slurm_user": "refused", "worker_init": "honoured"},
    options={"memory": "4G", "parallel_tasks_per_job": 4, "limits": {"a": [1, None]}},
)


def report(
    verdicts: Verdicts = ALL_PASSED, selection: tuple[str, ...] = (), subject: Subject = SUBJECT
) -> Report:
    """A report on all requirements there are; those of which nothing is said passed."""
    judgements = tuple(
        Judgement(requirement, *verdicts.get(requirement.id, (Verdict.PASSED, ())), seconds=0.3)
        for requirement in requirements().values()
    )
    return Report(
        subject,
        judgements,
        selection,
        core_version="0.2.0",
        python="3.11.7",
        platform="Linux 6.1 x86_64",
        started="2025-06-03T14:05:09+00:00",
        seconds=12.34,
        folder="kept/here",
    )


def selected(area: str) -> Report:
    """A report in which only one area was judged."""
    chosen = {r.id for a in areas() if a.key == area for r in a.requirements}
    others = {id: (Verdict.NOT_JUDGED, ("not selected",)) for id in requirements() if id not in chosen}
    return report(others, (area,))


NOTHING = report(dict.fromkeys(requirements(), (Verdict.NOT_JUDGED, ("it does not start",))))
HOSTILE_REPORT = replace(
    report(
        {id: (verdict, (HOSTILE, "x" * 100_000)) for id, (verdict, _) in FAILURES.items()},
        selection=(HOSTILE,),
        subject=Subject(
            name=HOSTILE,
            distribution=HOSTILE,
            version=HOSTILE,
            interface_version=1,
            capabilities=(HOSTILE,),
            arguments={"slurm_user": HOSTILE},
            options={HOSTILE: HOSTILE, "object": object()},
        ),
    ),
    core_version=HOSTILE,
    python=HOSTILE,
    platform=HOSTILE,
    started=HOSTILE,
    folder=HOSTILE,
)


class Page(HTMLParser):
    """A parsed page. Fails where an element is not closed, or not where it should be."""

    VOID = ("meta", "input")
    INLINE = ("a", "code", "span")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag not in self.INLINE:
            self.texts.append((tuple(self.open), " "))

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def values(self, attribute: str) -> list[str]:
        """All values of an attribute, in order."""
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]

    def text(self, inside: str = "body") -> str:
        """The text in all elements of a kind, white space as one blank."""
        return " ".join("".join(data for path, data in self.texts if inside in path).split())

    def stories(self) -> list[str]:
        """What is in each preformatted block, as it is."""
        return [data for path, data in self.texts if path[-1:] == ("pre",)]
