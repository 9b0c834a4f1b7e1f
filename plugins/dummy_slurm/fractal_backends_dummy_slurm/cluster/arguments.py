"""Command lines, read as getopt_long does it."""

from __future__ import annotations

from dataclasses import dataclass, field


class Refused(Exception):  # noqa: N818 - SLURM's word, and no accident
    """What a command prints to stderr, its exit code, and what it prints to stdout."""

    def __init__(self, message: str, code: int = 1, out: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.out = out
        self.code = code


@dataclass
class Grammar:
    """The options of a command. A short one stands for a long one."""

    command: str
    valued: set[str]
    flags: set[str]
    short: dict[str, str] = field(default_factory=dict)
    bad_option_code: int = 1
    optional: set[str] = field(default_factory=set)
    """Those whose value may be left out."""

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
        if name in self.flags or (name in self.optional and not equals):
            options.pop(name, None)  # the last one of several is the last of all
            options[name] = ""
        elif name in self.valued or name in self.optional:
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
            if name in self.flags or name in self.optional:
                options[name] = ""
                continue
            if not letters and not todo:
                raise self._bad(f"option requires an argument -- '{letter}'")
            options[name] = letters or todo.pop(0)
            return

    def _bad(self, what: str) -> Refused:
        message = f'{self.command}: {what}\nTry "{self.command} --help" for more information\n'
        return Refused(message, self.bad_option_code)
