"""The command `new`: a distribution with a backend that works, for authors to begin with."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import fractal_backends

from ..errors import FractalBackendsError, InvalidInputError
from ..interface import INTERFACE_VERSION
from ..registry import KNOWN_BACKENDS, available_backends
from .terminal import harmless, make_console

_TEMPLATES = Path(__file__).parent / "templates" / "new"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST_NAME = 32
_JUDGED_WITH = {"full": " --options check.json"}


@dataclass(frozen=True)
class Names:
    """What the parts of a distribution are called."""

    name: str
    """The backend's name."""
    distribution: str
    module: str
    prefix: str
    """How the names of its classes begin."""
    variable: str
    """The environment variable that names its configuration file."""


def make_backend(name: str, kind: str, folder: Path | None) -> None:
    """Make a distribution for the backend `name`, in ./`name` if no other folder is given, and tell of it.

    Raises InvalidInputError for a name or a folder that cannot be used, FractalBackendsError where jinja2 is
    missing, and OSError. Whatever goes wrong, nothing is left behind.
    """
    names = _names(name)
    _check_free(names)
    folder = Path(name) if folder is None else folder
    check = f"fractal-backends check {name}{_JUDGED_WITH.get(kind, '')}"
    files = _render(names, kind, check)
    _write(folder, files)
    _tell(names, folder, list(files), check)


def _names(name: str) -> Names:
    """Raises InvalidInputError where no backend, distribution or class could have the name."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f"{name!r} cannot be the name of a backend. It takes lower-case letters and digits, words joined"
            f" by - or _, a letter first, at most {_LONGEST_NAME} characters, as in my-cluster"
        )
    words = re.split("[-_]", name)
    prefix = "".join(word.capitalize() for word in words)
    others = {*fractal_backends.__all__, *concurrent.futures.__all__}
    for made in (f"{prefix}Backend", f"{prefix}Executor"):
        if made in others:
            raise InvalidInputError(f"{name!r} cannot be the name: there is a class {made} already")
    return Names(
        name=name,
        distribution="-".join(["fractal-backends", *words]),
        module="_".join(["fractal_backends", *words]),
        prefix=prefix,
        variable="_".join([*words, "config_file"]).upper(),
    )


def _check_free(names: Names) -> None:
    """Raises InvalidInputError where the backend, or its distribution, is there already."""
    for known, distribution in KNOWN_BACKENDS.items():
        if names.distribution in (_distribution_name(f"fractal-backends-{known}"), distribution):
            raise InvalidInputError(f"The backend {known!r} is there already: pip install {distribution}")
    for info in available_backends():
        offered = {_distribution_name(f"fractal-backends-{info.name}"), _distribution_name(info.distribution)}
        if names.distribution in offered:
            raise InvalidInputError(
                f"The backend {info.name!r} is there already: {info.distribution} {info.version} is installed"
            )


def _distribution_name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _render(names: Names, kind: str, check: str) -> dict[str, str]:
    """The files, by their paths in the distribution's folder."""
    try:
        import jinja2
    except ImportError:
        raise FractalBackendsError(
            "`fractal-backends new` needs jinja2, which is not installed:"
            " pip install 'fractal-backends[conformance]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - not HTML
    )
    values = {
        **asdict(names),
        "kind": kind,
        "check": check,
        "interface_version": INTERFACE_VERSION,
        "core_versions": _core_versions(),
    }
    files = {}
    for template in environment.list_templates():
        part, _, path = template.partition("/")
        if part in ("common", kind):
            target = path.removesuffix(".jinja").replace("MODULE", names.module).replace("dot-", ".")
            files[target] = environment.get_template(template).render(values)
    return dict(sorted(files.items()))


def _core_versions() -> str:
    from importlib_metadata import version

    major, minor, *_ = version("fractal-backends").split(".")
    return f">={major}.{minor},<{major}.{int(minor) + 1}"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into a new or empty folder; where that fails, none of them is left.

    Raises InvalidInputError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder} is there already, and no empty folder")
    with contextlib.ExitStack() as undo:
        for path, text in files.items():
            target = folder / path
            for parent in reversed(target.parents):
                if not parent.exists():
                    parent.mkdir()
                    undo.callback(parent.rmdir)
            with target.open("x", encoding="utf-8") as file:
                undo.callback(target.unlink)
                file.write(text)
        undo.pop_all()


def _tell(names: Names, folder: Path, files: list[str], check: str) -> None:
    lines = [f"The backend {names.name} is in {folder}:", *(f"  {path}" for path in files), "", "Next:"]
    if folder.resolve() != Path.cwd():
        lines.append(f"  cd {shlex.quote(str(folder))}")
    lines += ["  pip install -e '.[test]'", f"  {check}"]
    lines += ["", "Then make it your own: README.md says where."]
    console = make_console()
    console.print(harmless("\n".join(lines)), markup=False, highlight=False, soft_wrap=True)
