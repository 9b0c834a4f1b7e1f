"""From the words of an sbatch, variables and the lines of a script to options."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from .arguments import Grammar, Refused

_WITHOUT_EFFECT = (
    "bb bbf cluster-constraint core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot"
    " distribution gpu-bind gpu-freq gres-flags hint mail-type mail-user mcs-label mem-bind nice"
    " ntasks-per-core ntasks-per-node ntasks-per-socket power prefer priority profile signal"
    " sockets-per-node switches thread-spec threads-per-core time-min wckey"
)
"""Options that may be given, and change nothing."""
GRAMMAR = Grammar(
    "sbatch",
    "account array begin chdir comment constraint cpus-per-task dependency error exclude export gpus gres"
    " gpus-per-node job-name kill-on-invalid-dep licenses mem mem-per-cpu mincpus nodelist nodes ntasks"
    f" open-mode output partition qos reservation time wrap {_WITHOUT_EFFECT}",
    "hold no-requeue parsable quiet requeue test-only version exclusive verbose wait oversubscribe"
    " contiguous get-user-env ignore-pbs no-kill overcommit reboot spread-job use-min-nodes",
    "A=account a=array b=begin D=chdir C=constraint c=cpus-per-task d=dependency e=error x=exclude J=job-name"
    " N=nodes n=ntasks o=output p=partition q=qos t=time w=nodelist H=hold Q=quiet W=wait v=verbose"
    " V=version",
    bad_option_code=255,
)
_ENVIRONMENT = {
    **{
        f"SBATCH_{name.upper()}": name
        for name in ("account", "constraint", "export", "gpus", "gres", "partition")
    },
    **{"SBATCH_JOB_NAME": "job-name", "SBATCH_MEM_PER_CPU": "mem-per-cpu", "SBATCH_MEM_PER_NODE": "mem"},
    **{"SBATCH_OPEN_MODE": "open-mode", "SBATCH_QOS": "qos", "SBATCH_RESERVATION": "reservation"},
    **{"SBATCH_NO_REQUEUE": "no-requeue", "SBATCH_REQUEUE": "requeue", "SBATCH_TIMELIMIT": "time"},
}
"""Variables that stand for options."""

USER_VARIABLE = "DUMMY_SLURM_USER"
"""A variable of commands: whose they are to be taken for."""


@dataclass
class Caller:
    """Who runs a command, and where."""

    uid: int
    gid: int
    cwd: str
    env: list[str]

    @property
    def user(self) -> str:
        """Its name."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def named(self) -> str:
        """The user whom this one wants to be taken for."""
        names = [item.partition("=")[2] for item in self.env if item.startswith(f"{USER_VARIABLE}=")]
        return names[-1] if names else self.user


@dataclass
class Asked:
    """All that the words and the script say."""

    options: dict[str, str]
    script: str
    file: str | None
    """Where the script was."""
    words: list[str]


def failed(message: str, options: dict[str, str]) -> Refused:
    """The controller's word, as sbatch says it."""
    what = (
        "allocation failure: " if "test-only" in options else "sbatch: error: Batch job submission failed: "
    )
    return Refused(f"{what}{message}\n")


def read(words: list[str], caller: Caller, script: str) -> Asked:
    """Options on the command line go before variables, and these before those in the script, which came from
    a file or from stdin. Raises Refused."""
    options, operands = GRAMMAR.parse(words, stop_at_operand=True)
    if "version" in options:
        raise Refused("", 0)
    if "wrap" in options:
        script = f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{options['wrap']}\n"
    _check_script(script)
    file = os.path.join(caller.cwd, operands[0]) if operands and "wrap" not in options else None
    lines = _lines_of(script, file or "stdin")
    return Asked(_merged(_merged(lines, _variables(caller.env)), options), script, file, operands)


def _variables(env: list[str]) -> dict[str, str]:
    pairs = dict(item.split("=", 1) for item in env if item.startswith("SBATCH_") and "=" in item)
    return {_ENVIRONMENT[name]: value for name, value in pairs.items() if name in _ENVIRONMENT}


def _merged(earlier: dict[str, str], later: dict[str, str]) -> dict[str, str]:
    """Later ones win, and come last."""
    return {**{name: value for name, value in earlier.items() if name not in later}, **later}


def _check_script(text: str) -> None:
    if not text:
        raise Refused("sbatch: error: Batch script is empty!\n")
    if not text.startswith("#!"):
        raise Refused(
            "sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh\n"
        )
    if "\r\n" in text:
        raise Refused(
            "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
            "sbatch: error: instead of expected UNIX line breaks (\\n).\n"
        )


def _lines_of(text: str, file: str) -> dict[str, str]:
    """The options in `#SBATCH` lines, up to the first command. Raises Refused."""
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#SBATCH"):
            found, operands = GRAMMAR.parse(_words_of(line[7:], f"{file}: line {number}"))
            if operands:
                raise Refused(f"sbatch: error: Invalid directive found in batch script: {operands[0]}\n", 255)
            options.update(found)
        elif line.strip() and not line.startswith("#"):
            break
    return options


def _words_of(text: str, where: str) -> list[str]:
    """As sbatch splits a line: a backslash takes what follows as it is, a blank outside of quotes not; an
    empty word ends it. Raises Refused."""
    words: list[str] = []
    text = text.strip()
    while True:
        word, quote, escaped, rest = "", "", False, ""
        start = len(text) - len(text.lstrip())
        for place, character in enumerate(text[start:], start):
            if character.isspace() and not quote:
                rest = text[place:]
                break
            if escaped or character == "\\":
                word += character if escaped else ""
                escaped = not escaped
            elif character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            elif not quote and character == "#":  # the rest is a comment
                break
            else:
                word += character
        if quote:
            raise Refused(f"sbatch: fatal: {where}: Unmatched `{quote}` in [{text}]\n")
        if not word:
            return words
        words.append(word)
        text = rest
