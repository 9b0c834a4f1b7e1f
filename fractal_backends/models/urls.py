"""URLs of images: absolute paths, normalised, and `s3://` addresses."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Strict

_PLAIN_PATH = re.compile(r"(?:/[^/\0.][^/\0]*)+")


def normalise_url(url: str) -> str:
    """The one spelling of a URL: `/a//b/./` and `//a/b` are `/a/b`, `s3://` loses its trailing slashes.

    Raises ValueError for anything else, and for a path component `..`.
    """
    if _PLAIN_PATH.fullmatch(url):
        return url
    if url.startswith("s3://"):
        prefix, path = "s3://", url[5:].rstrip("/")
        if not path:
            raise ValueError(f"URL {url!r} names no bucket")
    elif url.startswith("/"):
        prefix, path = "/", "/".join(part for part in url.split("/") if part not in ("", "."))
    else:
        raise ValueError(f"URLs must begin with '/' or 's3://'. Got: {url!r}")
    if ".." in path.split("/"):
        raise ValueError(f"URLs must not have a '..' component. Got: {url!r}")
    if "\0" in path:
        raise ValueError(f"URLs must not hold a NUL character. Got: {url!r}")
    return prefix + path


def is_inside(url: str, folder: str) -> bool:
    """Whether a normalised URL is a true descendant of a normalised folder, by path."""
    return url != folder and url.startswith(folder if folder == "/" else folder + "/")


Url = Annotated[str, Strict(), AfterValidator(normalise_url)]
