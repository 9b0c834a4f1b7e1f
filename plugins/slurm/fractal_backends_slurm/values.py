"""The types of option values: what is taken, and what it becomes."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from fractal_backends import StrictPositiveInt

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII)
_LONG_OPTION = re.compile(r"--(?P<name>[a-z][a-z0-9-]*)(?:=(?P<value>.*))?", re.ASCII)
_SHORT_OPTION = re.compile(r"-(?P<letter>[A-Za-z])=?(?P<value>.*)", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_EXPORT = re.compile(r"export\s+(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.ASCII)
_SHORT = {
    **{"A": "account", "a": "array", "B": "extra-node-info", "C": "constraint", "c": "cpus-per-task"},
    **{"D": "chdir", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "i": "input", "J": "job-name"},
    **{"L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "o": "output"},
    **{"p": "partition", "q": "qos", "t": "time", "W": "wait", "w": "nodelist", "x": "exclude"},
    **{"b": "begin", "d": "dependency", "k": "no-kill", "O": "overcommit", "Q": "quiet", "S": "core-spec"},
    **{"s": "oversubscribe"},
}
_MOST_DAYS = 10_000
_FLAGS = "HkOQs"
"""Short options without a value: what follows in the same word are other options."""
_OWN = frozenset(
    {
        *("array", "chdir", "comment", "error", "export", "export-file", "gid", "hold", "input"),
        *("job-name", "kill-on-invalid-dep", "no-requeue", "nodes", "ntasks", "open-mode", "output"),
        *("parsable", "requeue", "tasks", "test-only", "uid", "wait", "workdir", "wrap"),
    }
)
"""What the backend itself gives sbatch, so that a line of a script which says otherwise would do nothing."""
_SAME_AS_OWN = frozenset({("nodes", "1"), ("ntasks", "1"), ("no-requeue", "")})
LIKE_OPTIONS = ("partition", "constraint", "nodelist", "exclude", "account", "qos")
"""What `#SBATCH` lines say of array tasks as options do."""
_UNLIKE_OPTIONS = ("mem", "time", "gres", "gpus")
"""Where options are of units, or are weighed as a wish for GPUs."""
OPTION_OF_LINE = {**{name: name for name in (*LIKE_OPTIONS, *_UNLIKE_OPTIONS)}, "mem-per-cpu": "mem"}
"""The option that sets what a `#SBATCH` line sets."""
_GPUS = re.compile(r"([^\s:,]+:)?\d+", re.ASCII)
_GRES = re.compile(r"[A-Za-z_][^\s:]*(:[^\s:]+)*", re.ASCII)
GPU_LINES = ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")
_UNDERSTOOD = {*_OWN, *OPTION_OF_LINE, *GPU_LINES, "clusters", "cpus-per-task"}
"""sbatch takes abbreviations of names too, but those of these would not be understood here."""


def _text_of_number(value: Any) -> Any:
    """`--option account=1234` comes as a number."""
    return str(value) if type(value) is int else value


def _one_line(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must be one line, without control characters")
    return text


def _number_of_text(value: Any) -> Any:
    """Fractal takes `"4"` for a number."""
    digits = isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    return int(value) if digits else value


def seconds(time: str) -> int:
    """What one of SLURM's ways to write a time means. Raises ValueError."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(
            "must be a time as SLURM has it: minutes, minutes:seconds, hours:minutes:seconds,"
            " days-hours, days-hours:minutes or days-hours:minutes:seconds"
        )
    parts = [int(part) for part in match.group("first", "second", "third") if part is not None]
    if match["days"] is not None or len(parts) == 3:  # counted from the hours on
        hours, minutes, rest = (*parts, 0, 0)[:3]
    else:
        hours, (minutes, rest) = 0, (*parts, 0)[:2]
    total = int(match["days"] or 0) * 86_400 + hours * 3_600 + minutes * 60 + rest
    if total == 0:
        raise ValueError("must be more than no time at all")
    if total > _MOST_DAYS * 86_400:
        raise ValueError(f"must be at most {_MOST_DAYS} days")
    return total


def _time(text: str) -> str:
    seconds(text)
    return text


def _gpus(text: str) -> str:
    if not all(_GPUS.fullmatch(part.strip()) for part in text.split(",")):
        raise ValueError('must be a number of GPUs, which may follow a type, such as "1" or "a100:1"')
    return text


def _gres(text: str) -> str:
    if not all(_GRES.fullmatch(part.strip()) for part in text.split(",")):
        raise ValueError('must name resources, each with a number where it is not 1, such as "gpu:1"')
    return text


def _one_node(count: int) -> int:
    if count != 1:
        raise ValueError("a unit is one command and runs on one node: only 1 is possible")
    return count


def _shebang(text: str) -> str:
    if not re.match(r"#! ?/", text):
        raise ValueError("must begin with #! and the absolute path of a shell")
    return text


_OF_THE_SCRIPT = re.compile(r"SLURM_(ARRAY_\w+|JOB_ID|MEM_PER_\w+)|SLURMD_NODENAME|FRACTAL_MARK|fb_\w+")


def sbatch_options(line: str) -> list[tuple[str, str]]:
    """The long names and the values of what a `#SBATCH` line sets; empty where it is no such line."""
    if not re.match(r"#SBATCH\s", line):
        return []
    try:
        words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
    except ValueError:
        return []
    found: list[tuple[str, str]] = []
    for word in words:
        long, short = _LONG_OPTION.fullmatch(word), _SHORT_OPTION.fullmatch(word)
        if long:
            found.append((long["name"], long["value"] or ""))
        elif short and short["letter"] in _SHORT and not (short["value"] and short["letter"] in _FLAGS):
            found.append((_SHORT[short["letter"]], short["value"]))
        elif found and not found[-1][1] and not word.startswith("-"):
            found[-1] = (found[-1][0], word)
        else:
            return []
    return found


def one_each(line: str) -> list[str]:
    """A line for each option of a `#SBATCH` line that sets several."""
    options = sbatch_options(line)
    if len(options) < 2:
        return [line]
    settings: list[list[str]] = []
    for word in shlex.split(line.removeprefix("#SBATCH"), comments=True):
        if word.startswith("-"):
            settings.append([])
        settings[-1].append(_as_written(word))
    return [f"#SBATCH {' '.join(words)}" for words in settings]


def _as_written(word: str) -> str:
    """So that sbatch and a shell read it alike: in quotes, a backslash is none to a shell."""
    return re.sub(r"\W", r"\\\g<0>", word) if re.search(r"['\\]", word) else shlex.quote(word)


def exported(line: str) -> tuple[str, str] | None:
    """The name and the value of `export NAME=VALUE`; None for any other line, and where a shell is needed."""
    match = _EXPORT.fullmatch(line)
    if match is None or re.search(r"[$`;&|<>()~]", match["value"]):
        return None
    try:
        words = shlex.split(match["value"])
    except ValueError:
        return None
    return (match["name"], "".join(words)) if len(words) < 2 else None


def extra_line_problem(line: str) -> str | None:
    """Why `extra_lines` may not hold it, if so."""
    try:
        _extra_line(_one_line(line))
    except ValueError as error:
        return str(error)
    return None


def _extra_line(line: str) -> str:
    options = sbatch_options(line)
    if not options and exported(line) is None:
        raise ValueError(
            "must be a line '#SBATCH --name=value' or 'export NAME=value' (a plain value, in quotes where"
            " there are blanks, without $ ` ; & | < > ( ) ~); other lines of shell belong into worker_init"
        )
    if variable := exported(line):
        _not_of_the_script(variable[0])
    if problems := [problem for name, value in options if (problem := _sbatch_option_problem(name, value))]:
        raise ValueError("; ".join(problems))
    return line


def _sbatch_option_problem(name: str, value: str) -> str | None:
    """Why a `#SBATCH` line may not set it, if so."""
    if name == "cpus-per-task":
        return "cores are counted by the backend: use the option cpus_per_task"
    if name == "clusters":
        return "a run goes to one cluster, the one of the commands on its PATH"
    if name not in _UNDERSTOOD and any(full.startswith(name) for full in _UNDERSTOOD):
        return f"--{name} must be written in full"
    if name in _OWN and (name, value) not in _SAME_AS_OWN:
        return f"--{name} is set by the backend itself"
    return None


def _not_of_the_script(variable: str) -> None:
    if _OF_THE_SCRIPT.fullmatch(variable):
        raise ValueError(f"{variable} is what the job script goes by")


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("must be the name of an environment variable")
    if name == "PATH":
        raise ValueError("PATH cannot be a single folder, in which no command would be found")
    _not_of_the_script(name)
    return name


def _relative_path(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a relative path without .., which is taken below the user's cache folder")
    return text


def _each_once(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lines))


OneLine = Annotated[str, BeforeValidator(_text_of_number), AfterValidator(_one_line)]
"""Text that ends up in one argument of sbatch."""
WholeNumber = Annotated[StrictPositiveInt, Field(le=1_000_000_000), BeforeValidator(_number_of_text)]
"""A whole number from 1 up; text that is one, too."""
Time = Annotated[OneLine, AfterValidator(_time)]
"""A time as SLURM has it."""
Gpus = Annotated[OneLine, AfterValidator(_gpus)]
"""A number of GPUs, or numbers of several types."""
Gres = Annotated[OneLine, AfterValidator(_gres)]
"""Generic resources of a node."""
Nodes = Annotated[WholeNumber, AfterValidator(_one_node)]
"""A number of nodes: 1."""
Shebang = Annotated[OneLine, AfterValidator(_shebang)]
"""The first line of a script."""
ExtraLine = Annotated[OneLine, AfterValidator(_extra_line)]
"""A line for the head of a job script."""
ExtraLines = Annotated[tuple[ExtraLine, ...], AfterValidator(_each_once)]
"""Lines for the head of a job script."""
VariableName = Annotated[OneLine, AfterValidator(_variable)]
"""The name of an environment variable that the job script does not go by."""
RelativePath = Annotated[OneLine, AfterValidator(_relative_path)]
"""A path that cannot leave the folder that it is relative to."""
