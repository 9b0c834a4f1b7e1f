"""Which source of options wins, by an oracle: of each matter, the last one that says anything of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_slurm.options import SlurmOptions, charged_account
from fractal_backends_slurm.values import LIKE_OPTIONS
from hypothesis import HealthCheck, event, given, settings, strategies as st

from fractal_backends import InvalidInputError
from tests.helpers.slurm_options import Json, prepare

SITE, PROFILE, META, GIVEN = "default_slurm_config", "gpu_slurm_config", "meta", "given"
VALUES = {
    "partition": ["main", "long"],
    "mem": ["100M", "200M"],
    "account": ["lab", "other"],
    "nice": ["1", "2"],
    "A": ["x", "y"],
}
"""Values of each matter. SLURM's nice and a variable have no option, only lines."""
ONLY_LINES = ("nice", "A")
Said = dict[str, tuple[str, str | None]]
"""What a source says of matters: in an option or in a line, and the value; None is null."""

quick = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def sayings(draw: st.DrawFn) -> dict[str, Said]:
    """What each source says of a few matters."""
    matters = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True))
    return {name: draw(_said_by_one(matters)) for name in (SITE, PROFILE, META, GIVEN)}


@st.composite
def _said_by_one(draw: st.DrawFn, matters: list[str]) -> Said:
    said: Said = {}
    for matter in matters:
        forms = ["nothing", "line"] if matter in ONLY_LINES else ["nothing", "option", "line"]
        if (form := draw(st.sampled_from(forms))) != "nothing":
            values = VALUES[matter] if form == "line" else [*VALUES[matter], None]
            said[matter] = (form, draw(st.sampled_from(values)))
    return said


def written(said: Said) -> Json:
    """In the source's own words."""
    values: Json = {matter: value for matter, (form, value) in said.items() if form == "option"}
    lines = [_line(matter, str(value)) for matter, (form, value) in said.items() if form == "line"]
    return values | ({"extra_lines": lines} if lines else {})


def _line(matter: str, value: str) -> str:
    return f"export {matter}={value}" if matter.isupper() else f"#SBATCH --{matter}={value}"


def expected(sources: dict[str, Said]) -> dict[str, str]:
    """What holds of each matter in the end."""
    held: dict[str, str | None] = {}
    for name, said in sources.items():
        has_lines = any(form == "line" for form, _ in said.values())
        if name == PROFILE and has_lines:  # in place of the default's
            held = {m: v for m, v in held.items() if m in LIKE_OPTIONS or sources[SITE][m][0] == "option"}
        held |= {m: v for m, (_, v) in said.items() if v is not None or name == GIVEN}
    return {matter: value for matter, value in held.items() if value is not None}


def found(options: SlurmOptions) -> dict[str, str]:
    """What SLURM would be told of each matter; one that is told twice is told in both words."""
    mem = None if options.mem is None else f"{options.mem}M"
    of_options = {"partition": options.partition, "mem": mem, "account": charged_account(options, None)}
    told = {matter: [value] for matter, value in of_options.items() if value is not None}
    for line in options.extra_lines:
        name, _, value = line.removeprefix("export ").removeprefix("#SBATCH --").partition("=")
        told.setdefault(name, []).append(value)
    return {matter: " and ".join(values) for matter, values in told.items()}


@pytest.fixture
def site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "site.json"
    monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(path))
    monkeypatch.chdir(tmp_path)
    yield path


@settings(quick, max_examples=500)
@given(said=sayings(), needs_gpu=st.booleans())
def test_the_last_source_that_says_anything_wins(
    site_file: Path, said: dict[str, Said], needs_gpu: bool
) -> None:
    words = {name: written(of_source) for name, of_source in said.items()}
    site_file.write_text(json.dumps({SITE: words[SITE], PROFILE: words[PROFILE]}))
    options = prepare({**words[META], "needs_gpu": needs_gpu}, words[GIVEN])
    in_use = {name: said[name] for name in said if needs_gpu or name != PROFILE}
    assert found(options) == expected(in_use)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 1 << 70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["#SBATCH --mem=1", "#SBATCH -A x", "export A='", "#SBATCH --gres=gpu:1", "0", "gpu:0", "1-"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
keys = st.sampled_from([*SlurmOptions.model_fields, "shebang_line", "unheard_of"])
options_of_any_kind = st.dictionaries(keys, anything, max_size=4)
files = st.dictionaries(
    st.sampled_from([SITE, PROFILE, "batching_config", "user_local_exports"]), options_of_any_kind | anything
)


@settings(quick, max_examples=200)
@given(file=files | options_of_any_kind, meta=options_of_any_kind, said=options_of_any_kind)
def test_any_value_is_taken_or_told_as_wrong(site_file: Path, file: Json, meta: Json, said: Json) -> None:
    site_file.write_text(json.dumps(file))
    try:
        options = prepare(meta, said)
    except InvalidInputError as error:
        event("told as wrong")
        assert error.problems
    else:
        event("taken")
        options.model_dump_json()
