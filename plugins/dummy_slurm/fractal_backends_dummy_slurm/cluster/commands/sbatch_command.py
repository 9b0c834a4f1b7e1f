"""sbatch."""

from __future__ import annotations

from ..arguments import Refused
from ..controller import Controller
from ..sbatch_words import GRAMMAR, Caller, read


def script_file(words: list[str]) -> str | None:
    """The file whose content is needed: "" is stdin, None: none is. Raises Refused."""
    options, operands = GRAMMAR.parse(words, stop_at_operand=True)
    if "wrap" in options or "version" in options:
        return None
    return operands[0] if operands else ""


def run(controller: Controller, caller: Caller, words: list[str], script: str | None) -> tuple[str, str]:
    """Raises Refused, or QueueFull."""
    options, _ = GRAMMAR.parse(words, stop_at_operand=True)
    if "version" in options:
        return "slurm-wlm 22.05.8\n", ""
    asked = read(words, caller, script or "")
    try:
        submission = controller.submit(asked, caller)
    except Refused as refusal:
        if refusal.code == 0:  # --test-only
            return "", refusal.message
        raise
    if "parsable" in options:
        return f"{submission.id}\n", ""
    return f"Submitted batch job {submission.id}\n", ""
