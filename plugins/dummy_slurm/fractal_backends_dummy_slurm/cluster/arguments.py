"""Command lines, read as getopt_long does it."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 - SLURM's word, and no accident
    """What a command prints to stderr, its exit code, and what it prints to stdout."""

    def __init__(self, message: str, code: int = 1, out: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.out = out
        self.code = code


@dataclass
class Grammar:
    """The options of a command: names of long ones, and what each short one stands for (`j=jobs`)."""

    command: str
    with_value: str
    without_value: str
    shorts: str = ""
    bad_option_code: int = 1

    def __post_init__(self) -> None:
        self.valued = set(self.with_value.split())
        self.flags = set(self.without_value.split())
        self.short = dict(item.split("=") for item in self.shorts.split())

    def parse(self, words: list[str], *, stop_at_operand: bool = False) -> tuple[dict[str, str], list[str]]:
        """Options and operands. Flags have an empty value."""
        options: dict[str, str] = {}
        operands: list[str] = []
        todo = list(words)
        while todo:
            word = todo.pop(0)
            if word == "--":
                return options, operands + todo
            if word.startswith("--"):
                self._long(word[2:], todo, options)
            elif word.startswith("-") and word != "-":
                self._short(word[1:], todo, options)
            else:
                operands.append(word)
                if stop_at_operand:
                    return options, operands + todo
        return options, operands

    def _long(self, word: str, todo: list[str], options: dict[str, str]) -> None:
        name, equals, value = word.partition("=")
        if name in self.flags:
            options.pop(name, None)  # the last one of several is the last of all
            options[name] = ""
        elif name in self.valued:
            if not equals and not todo:
                raise self._bad(f"option '--{name}' requires an argument")
            options[name] = value if equals else todo.pop(0)
        else:
            raise self._bad(f"unrecognized option '--{word}'")

    def _short(self, letters: str, todo: list[str], options: dict[str, str]) -> None:
        while letters:
            letter, letters = letters[0], letters[1:]
            name = self.short.get(letter)
            if name is None:
                raise self._bad(f"invalid option -- '{letter}'")
            if name in self.flags:
                options[name] = ""
                continue
            if not letters and not todo:
                raise self._bad(f"option requires an argument -- '{letter}'")
            options[name] = letters or todo.pop(0)
            return

    def _bad(self, what: str) -> Refused:
        message = f'{self.command}: {what}\nTry "{self.command} --help" for more information\n'
        return Refused(message, self.bad_option_code)
