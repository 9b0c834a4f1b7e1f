"""Limits and points in time as SLURM reads and writes them. Limits are in minutes."""

from __future__ import annotations

import contextlib
import re
import time

_DAYS = re.compile(r"(\d+)-(?:(\d+)(?::(\d+))?(?::(\d+))?)?$")
_NO_DAYS = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?$")
_NOW = re.compile(r"now(?:\+(\d+)([a-z]*))?$")
_UNITS = {"": 1, "s": 1, "seconds": 1, "m": 60, "minutes": 60, "minute": 60}
_UNITS |= {"hour": 3600, "hours": 3600, "day": 86400, "days": 86400}
_HOURS = {"midnight": 0, "noon": 12, "fika": 15, "teatime": 16}


def minutes(text: str) -> int | None:
    """`90`, `10:30`, `1:30:00`, `1-2`, rounded up; None: no limit. Raises ValueError."""
    if text.lower() in ("infinite", "unlimited", "0"):
        return None
    if match := _DAYS.match(text):
        days, hours, mins, secs = (int(group or 0) for group in match.groups())
        seconds = ((days * 24 + hours) * 60 + mins) * 60 + secs
    elif match := _NO_DAYS.match(text):
        one, two, three = match.groups()
        if three is not None:
            seconds = (int(one) * 60 + int(two)) * 60 + int(three)
        else:
            seconds = int(one) * 60 + int(two or 0)
    else:
        raise ValueError(text)
    return -(-seconds // 60) or None


def begin(text: str) -> float:
    """When a job may start at the earliest. Raises ValueError."""
    if match := _NOW.match(text):
        number, unit = match.groups()
        if (unit or "") not in _UNITS:
            raise ValueError(text)
        return time.time() + int(number or 0) * _UNITS[unit or ""]
    if (hour := _HOURS.get(text)) is not None:
        return _next(hour, 0)
    if text in ("today", "tomorrow"):
        return time.time() + (_UNITS["days"] if text == "tomorrow" else 0)
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return time.mktime(time.strptime(text, form))
    clock = time.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")
    return _next(clock.tm_hour, clock.tm_min, clock.tm_sec)


def _next(hour: int, minute: int, second: int = 0) -> float:
    """When it is so late again."""
    now = time.localtime()
    day = now.tm_mday + ((now.tm_hour, now.tm_min, now.tm_sec) >= (hour, minute, second))
    return time.mktime((now.tm_year, now.tm_mon, day, hour, minute, second, 0, 0, -1))


def limit_long(limit: int | None) -> str:
    """As scontrol shows it: `1-02:03:00`."""
    return "UNLIMITED" if limit is None else span_long(limit * 60)


def span_long(seconds: float) -> str:
    """`00:01:20`, `1-00:00:00`."""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def span_short(seconds: float) -> str:
    """As squeue and sinfo show it: `1:20`, `1:30:00`."""
    days, rest = divmod(int(seconds), 86400)
    if days:
        return span_long(seconds)
    if rest >= 3600:
        return f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"


def point(when: float | None, unknown: str = "Unknown") -> str:
    """A point in time, or what is said where there is none."""
    return unknown if when is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))


def memory_mb(text: str) -> int:
    """`500`, `4G`, `1024K`. Raises ValueError."""
    match = re.match(r"(\d+)([KMGT]?)B?$", text, re.IGNORECASE)
    if match is None:
        raise ValueError(text)
    number, unit = int(match[1]), match[2].upper()
    kilobytes = number * {"K": 1, "": 1 << 10, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}[unit]
    return -(-kilobytes >> 10) if kilobytes % 1024 == 0 else (kilobytes >> 10) + 1


def show_memory(megabytes: int) -> str:
    """`100M`, `1G`."""
    if megabytes and megabytes % 1024 == 0:
        return f"{megabytes // 1024}G"
    return f"{megabytes}M" if megabytes else "0"
