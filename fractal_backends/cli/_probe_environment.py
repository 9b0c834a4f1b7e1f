"""Says where the packages of an environment keep their Fractal manifests, as one marked line of JSON.

A script: the environment's own interpreter runs it, any Python from 3.8 on. So it uses nothing but the
standard library, and imports none of the packages: one that fails to import, or takes long to, does no harm.
"""

from __future__ import annotations

import os
import sys

# A script's own folder comes first on sys.path; what lies next to this one is nobody's module.
if __name__ == "__main__":
    _here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != _here]

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from urllib.parse import unquote, urlsplit

MANIFEST = "__FRACTAL_MANIFEST__.json"
MARK = "fractal-manifests:"


def main() -> None:
    """Print the manifests that are there, each with its distribution's name and version."""
    found: dict[str, dict[str, str | None]] = {}
    owners: dict[str, object] = {}
    distributions = list(_distributions())
    # The surest ways come first, so that a manifest goes to the distribution that it belongs to.
    for manifests in (_recorded, _importable, _in_source_folders):
        for distribution, name, version in distributions:
            paths: list[str] = []
            with suppress(Exception):  # A broken distribution has nothing to offer, and harms no other.
                paths = list(manifests(distribution, name))
            for path in filter(os.path.isfile, paths):
                # Of several installations of one package, the first on sys.path is what gets imported.
                owner = (distribution, manifests)
                if owners.setdefault(_normalise(name), owner) == owner:
                    entry = {"pkg_name": name, "version": version, "path": os.path.abspath(path)}
                    found.setdefault(os.path.realpath(path), entry)
    # Not sys.stdout: what an environment runs at start-up may have replaced it.
    with open(1, "wb", closefd=False) as output:
        output.write(f"\n{MARK}{json.dumps(list(found.values()))}\n".encode())


def _distributions() -> Iterator[tuple[metadata.Distribution, str, str | None]]:
    for distribution in metadata.distributions():
        # pip leaves such folders behind when an uninstall fails half-way.
        if os.path.basename(str(getattr(distribution, "_path", ""))).startswith("~"):
            continue
        name = version = None
        with suppress(Exception):
            name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name:
            yield distribution, name, version


def _normalise(name: str, separator: str = "-") -> str:
    return re.sub(r"[-_.]+", separator, name).lower()


def _recorded(distribution: metadata.Distribution, _name: str) -> Iterator[str]:
    """The manifests among the files that were installed."""
    records = ("RECORD", "installed-files.txt", "SOURCES.txt")
    # `files` looks at every file of a package on some versions of Python; few packages have a manifest.
    if any(MANIFEST in (distribution.read_text(record) or "") for record in records):
        for file in distribution.files or ():
            if file.name == MANIFEST:
                yield str(distribution.locate_file(file))


def _importable(distribution: metadata.Distribution, name: str) -> Iterator[str]:
    """The manifests in the packages that importing would find, also through an editable install's hook."""
    names = (distribution.read_text("top_level.txt") or "").split()
    for top_level in names or [_normalise(name, "_"), re.sub(r"[-.]+", "_", name)]:
        spec = None
        with suppress(Exception):
            spec = importlib.util.find_spec(top_level) if top_level.isidentifier() else None
        for folder in (spec and spec.submodule_search_locations) or ():
            yield os.path.join(folder, MANIFEST)


def _in_source_folders(distribution: metadata.Distribution, _name: str) -> Iterator[str]:
    """The manifests in the folders that an editable install points to, whatever its packages are called."""
    folders = []
    for line in (distribution.read_text("RECORD") or "").splitlines():
        file = line.split(",")[0]
        if file.endswith(".pth"):
            path = str(distribution.locate_file(file))
            with open(path, encoding="utf-8", errors="surrogateescape") as lines:
                entries = [entry.strip() for entry in lines if entry.strip()]
            folders += [os.path.join(os.path.dirname(path), entry) for entry in entries]
    direct_url = json.loads(distribution.read_text("direct_url.json") or "{}")
    if direct_url.get("dir_info", {}).get("editable"):
        project = unquote(urlsplit(direct_url["url"]).path)
        folders += [project, os.path.join(project, "src")]
    for folder in filter(os.path.isdir, folders):
        for child in sorted(os.listdir(folder)):
            yield os.path.join(folder, child, MANIFEST)


if __name__ == "__main__":
    main()
