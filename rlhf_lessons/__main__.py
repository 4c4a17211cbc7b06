"""The command line: ``python -m rlhf_lessons COMMAND``. A command is imported when it is called."""

from __future__ import annotations

import importlib
import sys

import rlhf_lessons

COMMANDS = {
    "grade": ("rlhf_lessons.classroom.grade", "run the graded checks of lessons, print the scores"),
    "frontier": ("rlhf_lessons.evaluation.frontier", "measure reward against KL, method by method"),
    "run": ("rlhf_lessons.evaluation.run_command", "repeat a published experiment"),
    "models": ("rlhf_lessons.training.recipes", "list, verify or rebuild the shipped models"),
    "real": (
        "rlhf_lessons.evaluation.real_command",
        "fetch a real model, people's ratings, real facts",
    ),
    "scale": ("rlhf_lessons.training.scale", "train on several processes, with TRL"),
}


def usage() -> str:
    """Return the help text: one line per command."""
    lines = ["usage: python -m rlhf_lessons COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<8} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    lines += ["", "python -m rlhf_lessons COMMAND --help explains each option."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: command-line words after the program's name; ``sys.argv[1:]`` when left out.

    Returns:
        0 when the command succeeded, 2 when the command is unknown, else the command's own status.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(rlhf_lessons.__version__)
        return 0
    if words[0] not in COMMANDS:
        print(f"unknown command {words[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    return importlib.import_module(module).main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
