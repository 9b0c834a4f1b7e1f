"""The site file, as Fractal's admins write it, and how it goes together with metas and given options."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fractal_backends import Options, Source

from .options import SlurmOptions, gpu_keys, names_gpus, sets_gpus, without_gpus
from .values import LIKE_OPTIONS, OPTION_OF_LINE, exported, extra_line_problem, one_each, sbatch_options

_DEFAULT = "default_slurm_config"
_GPU = "gpu_slurm_config"
_BATCHING = "batching_config"
_EXPORTS = "user_local_exports"
_SECTIONS = (_DEFAULT, _BATCHING, _EXPORTS, _GPU)
_BATCHING_KEYS = (
    *("target_cpus_per_job", "max_cpus_per_job", "target_mem_per_job", "max_mem_per_job"),
    *("target_num_jobs", "max_num_jobs"),
)
_OTHER_NAMES = {"shebang_line": "shebang"}
_NO_LINES: tuple[object, ...] = ([], ())
_ON_THE_RUNNER = "pre_submission_commands"


def option_sources(model: type[Options], file: Source | None, meta: Source, given: Source) -> list[Source]:
    """The sources of a task part's options, each but the last without what a later one sets in another way.

    The site file's default section, its batching and its exports; its GPU section where the task asks for a
    GPU; the task's meta; what was given. Lines in `extra_lines` add up, except that the GPU section's stand
    in the place of the default's.
    """
    sections = _sections(file) if file else {}
    meta = _with_lines_read(_from_meta(meta))
    needs_gpu = _needs_gpu(sections.get(_DEFAULT), meta, given)
    given = replace(given, values=_given(given.values, model))
    if given.values.get("extra_lines") in _NO_LINES:
        meta = _without(meta, ["extra_lines"])
        sections = {key: _without(section, ["extra_lines"]) for key, section in sections.items()}
    given = _with_lines_read(given)
    is_for_gpu = _ask_for_gpus([meta, given]) if needs_gpu is None else needs_gpu
    gpu, default = sections.pop(_GPU, None), sections.get(_DEFAULT)
    if gpu is not None:
        if is_for_gpu and default and "extra_lines" in gpu.values:
            sections[_DEFAULT] = _without(default, ["extra_lines"])
        sections[_GPU] = replace(gpu, used=is_for_gpu)
    sources = [*map(_of_site, sections.values()), meta, given]
    if gpu is None and is_for_gpu and not _ask_for_gpus(sources):
        sources = _without_gpu_section(sources)
    unused = [source for source in sources if not source.used]
    return [*unused, *_together([source for source in sources if source.used])]


def _from_meta(meta: Source) -> Source:
    values = _set_values(_renamed(meta.values))
    if values.get("extra_lines") == []:  # which adds nothing to those of the site
        del values["extra_lines"]
    if _ON_THE_RUNNER not in values:
        return replace(meta, values=values)
    problem = (
        f"{_ON_THE_RUNNER}: runs where the runner is, so only the site file and given options may set it"
    )
    return replace(
        _without(replace(meta, values=values), [_ON_THE_RUNNER]), problems=(*meta.problems, problem)
    )


def _given(values: Mapping[str, Any], model: type[Options]) -> dict[str, Any]:
    """Here null takes away what others say: what is left is the default."""
    renamed = _renamed(values)
    if renamed.get("account", "") is None:
        renamed.setdefault("default_account", None)
    fields = model.model_fields
    gone = [key for key, value in renamed.items() if value is None and key in fields]
    return renamed | {key: fields[key].get_default(call_default_factory=True) for key in gone}


def _set_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that are null: Fractal takes these as not set."""
    return {key: value for key, value in values.items() if value is not None}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_OTHER_NAMES.get(key, key): value for key, value in values.items()}


def _without(source: Source, keys: Iterable[str]) -> Source:
    gone = set(keys)
    return replace(source, values={key: value for key, value in source.values.items() if key not in gone})


# The file


def _sections(file: Source) -> dict[str, Source]:
    """What the file is made of; one that has nothing but options is its own default section."""
    values = _renamed(file.values)
    if all(key in SlurmOptions.model_fields for key in values):
        return {_DEFAULT: _with_lines_read(replace(file, values=_set_values(values)))}
    sections = {"": replace(file, values={}, problems=(*file.problems, *_wrong_sections(values)))}
    for key in _SECTIONS:
        if isinstance(values.get(key), dict):
            sections[key] = _with_lines_read(_section(f"{file.name}, {key}", key, values[key]))
    return sections


def _wrong_sections(values: Mapping[str, Any]) -> list[str]:
    unknown = [_unknown(key, _SECTIONS) for key in values if key not in _SECTIONS]
    return unknown + [
        f"{key}: must be an object, not {values[key]!r}"
        for key in _SECTIONS
        if not isinstance(values.get(key, {}), dict | None)
    ]


def _section(name: str, key: str, values: dict[str, Any]) -> Source:
    if key == _EXPORTS:
        return Source(name, {_EXPORTS: values})
    if key != _BATCHING:
        return Source(name, _set_values(_renamed(values)))
    known = {option: value for option, value in _set_values(values).items() if option in _BATCHING_KEYS}
    unknown = tuple(_unknown(option, _BATCHING_KEYS) for option in values if option not in _BATCHING_KEYS)
    return Source(name, known, problems=unknown)


def _of_site(section: Source) -> Source:
    """An account in the site file is a default: it gives way to the run's."""
    if "account" not in section.values:
        return section
    values = {**section.values}
    account = values.pop("account")
    if values.setdefault("default_account", account) == account:
        return replace(section, values=values)
    problem = (
        f"default_account: is {values['default_account']!r}, and account is {account!r}: give one of them"
    )
    return replace(section, values=values, problems=(*section.problems, problem))


def _unknown(key: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    hint = f"did you mean {near[0]}? The" if near else "the"
    if names == _SECTIONS and key in SlurmOptions.model_fields:
        hint = f"it is an option: it belongs into {_DEFAULT}. The"
    return f"{key}: unknown key; {hint} valid ones are {', '.join(names)}."


# GPUs


def _needs_gpu(*sources: Source | None) -> bool | None:
    """What the last one says that says it, be it null; what is no truth value is told elsewhere."""
    said = [source.values["needs_gpu"] for source in sources if source and "needs_gpu" in source.values]
    try:
        return TypeAdapter(bool | None).validate_python(said[-1] if said else None)
    except ValidationError:
        return False


def _ask_for_gpus(sources: list[Source]) -> bool:
    """Together: a later one may take back what one before it asks for."""
    values: dict[str, Any] = {}
    for source in _together(sources):
        values |= source.values
    return bool(gpu_keys(values))


def _without_gpu_section(sources: list[Source]) -> list[Source]:
    """With that told of the last one that wants it."""
    problem = (
        f"needs_gpu: there is no {_GPU} in the site file, and none of gpus, gres and extra_lines asks for"
        " one; to run without, give the option needs_gpu=false"
    )
    last = [source for source in sources if "needs_gpu" in source.values][-1]
    told = replace(last, problems=(*last.problems, problem))
    return [told if source is last else source for source in sources]


# Putting together


def _together(sources: list[Source]) -> list[Source]:
    """Without what later sources set in another way; the last that has extra lines gets those of all."""
    sources = [
        _without(source, ["extra_lines"]) if source.values.get("extra_lines") in _NO_LINES else source
        for source in sources
    ]
    result = [_without_replaced(source, sources[place + 1 :]) for place, source in enumerate(sources)]
    lines: list[str] = []
    for source in sources:
        new = _effects(source.values)
        lines = [line for line in lines if not _effects_of_line(line) & new] + _lines(source.values)
    carriers = [place for place, source in enumerate(sources) if _lines(source.values)]
    if carriers:
        last = result[carriers[-1]]
        result[carriers[-1]] = replace(last, values={**last.values, "extra_lines": lines})
    return result


def _with_lines_read(source: Source) -> Source:
    """With each setting in a line of its own, wrong lines as problems, told by their place in this source,
    and options in the place of what its lines say alike, unless the source contradicts itself."""
    lines = _lines(source.values)
    problems = {place: problem for place, line in enumerate(lines) if (problem := extra_line_problem(line))}
    told = (f"extra_lines.{place}: {problem} (got {lines[place]!r})" for place, problem in problems.items())
    right = [one for place, line in enumerate(lines) if place not in problems for one in one_each(line)]
    said: dict[str, set[str]] = {}
    for name, value in (pair for line in right for pair in sbatch_options(line)):
        said.setdefault(name, set()).add(value)
    agreed = {name: min(values) for name, values in said.items() if len(values) == 1 and name in LIKE_OPTIONS}
    found = {name: value for name, value in agreed.items() if value and source.values.get(name) is None}
    values = {**source.values, **found}
    if lines:
        values["extra_lines"] = [line for line in right if not found.keys() & dict(sbatch_options(line))]
    return replace(source, values=values, problems=(*source.problems, *told))


def _without_replaced(source: Source, later: list[Source]) -> Source:
    """Without what later sources set by other means. By the same means they win anyhow."""
    gone = [key for key in source.values if _is_replaced(key, source, later)]
    left = _without(source, gone)
    for_gpus = "gres" in gone and not any("gres" in _effects(other.values) for other in later)
    if for_gpus and (rest := without_gpus(str(source.values["gres"]))):
        left = replace(left, values={**left.values, "gres": rest})
    exports = left.values.get(_EXPORTS)
    if not isinstance(exports, dict):
        return left
    lines = set().union(*(_effect("extra_lines", other.values.get("extra_lines")) for other in later))
    exports = {name: path for name, path in exports.items() if f"export {name}" not in lines}
    return replace(left, values={**left.values, _EXPORTS: exports})


def _is_replaced(key: str, source: Source, later: list[Source]) -> bool:
    if key in ("extra_lines", _EXPORTS):
        return False
    effect = _effect(key, source.values[key])
    return any(effect & _effects(_without(other, [key]).values) for other in later)


def _effects(values: Mapping[str, Any]) -> set[str]:
    return set().union(*(_effect(key, value) for key, value in values.items()))


def _effect(key: str, value: Any) -> set[str]:
    """What an option decides, in words that options and lines share."""
    if key == "extra_lines":
        return set().union(*(_effects_of_line(line) for line in _lines({key: value})))
    if key not in OPTION_OF_LINE.values():
        return set()
    is_about_gpus = key == "gpus" or (key == "gres" and names_gpus(str(value)))
    return {key, *(["GPUs"] if is_about_gpus and value is not None else [])}


def _effects_of_line(line: str) -> set[str]:
    if variable := exported(line):
        return {f"export {variable[0]}"}
    names = {OPTION_OF_LINE.get(name, f"--{name}") for name, _ in sbatch_options(line)}
    return {*names, *(["GPUs"] if sets_gpus(line) else [])}


def _lines(values: Mapping[str, Any]) -> list[str]:
    lines = values.get("extra_lines")
    right = isinstance(lines, list | tuple) and all(isinstance(line, str) for line in lines)
    return [line.strip() for line in lines] if right and lines else []
