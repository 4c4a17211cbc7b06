"""``python -m rlhf_lessons real``: the real model, ratings and facts, and what is made of them.

    python -m rlhf_lessons real get             everything; what is there and sound stays
    python -m rlhf_lessons real get snippets    one part
    python -m rlhf_lessons real verify          compare every file with its recorded SHA-256
    python -m rlhf_lessons real remove          delete the parts
    python -m rlhf_lessons real judge           how far the judge of people agrees with people
    python -m rlhf_lessons real words           how much each word of a sentence surprises the model
    python -m rlhf_lessons real reader          how well its answers are read

What the parts are is said once, in ``rlhf_lessons.real_parts``; here is what a model becomes. The
environment variable RLHF_LESSONS_CACHE names another folder than the platform's cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_lessons.evaluation.people_agreement import load_people_agreement, measure_people_agreement
from rlhf_lessons.evaluation.real_answers import load_reader_agreement, measure_real_reader
from rlhf_lessons.evaluation.real_confidence import knowledge_table, measure_real_knowledge
from rlhf_lessons.evaluation.real_knowledge import load_real_knowledge
from rlhf_lessons.evaluation.real_model import measure_real_words, real_word_surprises
from rlhf_lessons.evaluation.real_tuning import (
    load_real_tuning,
    measure_real_tuning,
    tuning_table,
)
from rlhf_lessons.models import CheckpointError
from rlhf_lessons.models.gguf_folder import gguf_to_folder
from rlhf_lessons.real_parts import (
    PARTS,
    PartError,
    cache_folder,
    fetch_part,
    part_damage,
    remove_parts,
)

__all__: list[str] = []


def _convert_model(folder: Path) -> None:
    print("smollm2: converting it to safetensors", flush=True)
    gguf_to_folder(folder / "model.gguf", folder)
    (folder / "model.gguf").unlink()


CONVERT: dict[str, Callable[[Path], None]] = {"smollm2": _convert_model}
"""What is made of the kept files of a part, by its name; the others stay as they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m rlhf_lessons real``.

    Args:
        argv: the words after ``real``; None takes those of the command line.

    Returns:
        0 when all went well, 1 when a part is missing or damaged or could not be fetched, 130 when
        Ctrl-C stopped it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons real",
        description="Fetch a real language model, film-review snippets with people's ratings, and "
        f"capitals and currencies of the world, by pip, into {cache_folder()} "
        "(RLHF_LESSONS_CACHE names another folder).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, purpose in (
        ("get", "fetch what is not there yet, about 135 MB; 600 MB on the disk"),
        ("verify", "compare every file with its recorded SHA-256"),
    ):
        words = commands.add_parser(command, help=purpose)
        words.add_argument(
            "names", nargs="*", metavar="NAME", help=f"{', '.join(PARTS)}; all when left out"
        )
    commands.add_parser("remove", help="delete the parts")
    judge = commands.add_parser("judge", help="how far the judge of people agrees with people")
    judge.add_argument("--measure", action="store_true", help="measure again: a few minutes")
    words = commands.add_parser("words", help="how much each word of a sentence surprises it")
    words.add_argument("--measure", action="store_true", help="measure again: some seconds")
    known = commands.add_parser("knowledge", help="what it knows of countries, and how surely")
    known.add_argument("--measure", action="store_true", help="ask again: some minutes")
    tuning = commands.add_parser("tuning", help="teaching it to say what it knows, and no more")
    tuning.add_argument("--measure", action="store_true", help="train what is missing")
    tuning.add_argument("--folder", type=Path, help="where the runs are; those of the course")
    reader = commands.add_parser("reader", help="how well its answers are read")
    reader.add_argument("--measure", action="store_true", help="read again: some seconds")
    arguments = parser.parse_args(argv)
    names = getattr(arguments, "names", None) or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    try:
        if arguments.command == "judge":
            return _judge(arguments.measure)
        if arguments.command == "words":
            return _words(arguments.measure)
        if arguments.command == "knowledge":
            return _knowledge(arguments.measure)
        if arguments.command == "tuning":
            return _tuning(arguments.measure, arguments.folder)
        if arguments.command == "reader":
            return _reader(arguments.measure)
        return {"get": _get, "verify": _verify, "remove": _remove}[arguments.command](names)
    except (OSError, PartError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was there is unchanged, and get goes on from here", file=sys.stderr)
        return 130


def _get(names: Sequence[str]) -> int:
    failed = 0
    for name in names:
        try:
            reader = name not in CONVERT or importlib.util.find_spec("gguf") is not None
            if not reader and part_damage(name):  # told before a hundred megabytes, not after
                raise PartError(f"{name}: reading it needs gguf: pip install 'rlhf-lessons[real]'")
            fetched = fetch_part(PARTS[name], CONVERT.get(name, lambda folder: None))
            print(f"{name}: {'ready' if fetched else 'there already'}, {cache_folder() / name}")
        except PartError as error:  # the other parts are worth having without this one
            print(error, file=sys.stderr)
            failed = 1
    return failed


def _verify(names: Sequence[str]) -> int:
    found = {name: part_damage(name) for name in names}
    for name, problems in found.items():
        print(f"{name}: {'; '.join(problems) or 'sound'}")
        if problems:
            print(f"  fetch it: python -m rlhf_lessons real get {name}")
    return 1 if any(found.values()) else 0


def _remove(names: Sequence[str]) -> int:
    removed = remove_parts()
    print(f"removed {', '.join(removed) or 'nothing: no part was there'}")
    return 0


def _judge(measure: bool) -> int:
    if measure:
        measure_people_agreement()
    found, left_out = load_people_agreement()
    for name, agreed in found.items():
        print(f"{name:<12} {agreed.count:,} held-out snippets: {agreed}")
    print(f"people-judge on the texts it was fitted to, each left out: correlation {left_out:.3f}")
    return 0


def _knowledge(measure: bool) -> int:
    if measure:
        measure_real_knowledge()
    print(knowledge_table(load_real_knowledge()))
    return 0


def _tuning(measure: bool, folder: Path | None) -> int:
    if measure and (failed := measure_real_tuning(folder)):
        return failed
    print(tuning_table(load_real_tuning(folder)))
    return 0


def _words(measure: bool) -> int:
    if measure:
        measure_real_words()
    (found,) = real_word_surprises()
    for word, nats in zip(found.words, found.nats, strict=True):
        print(f"{word:>10} {nats:6.2f} nats")
    if found.note:
        print(found.note)
    return 0


def _reader(measure: bool) -> int:
    found = measure_real_reader() if measure else load_reader_agreement()
    for name, agreed in found.items():
        print(f"{name:<20}{agreed}")
    return 0
