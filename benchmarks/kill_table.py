"""Which small mistakes the checks let pass: `python benchmarks/kill_table.py`, JSON lines.

Every solution in `notebooks/source/` is changed in one place at a time: an operator, comparison,
sign, number, reduction or branch becomes another; an argument by name, a method like `.detach()`, a
`with` or a statement is dropped. The exercise's check runs on each such mutant, in a process of its
own with limits on time and memory. A mutant is *killed* when the check refuses it with one of three
seeds; the check ran too long, ran out of memory, or the process died, count too. `kill_table.csv`
lists mutants that no check need refuse, each with its reason: they are *equal*. All others that
pass *survived*, are printed, and make the exit status 1. Runs where processes fork (Linux, macOS).

    python benchmarks/kill_table.py                        # all lessons; writes docs/kill_table.md
    python benchmarks/kill_table.py 3 5.6                  # some lessons and exercises
    python benchmarks/kill_table.py 5 --sample 40 --seed 1 # 40 mutants of lesson 5, drawn by seed
"""

from __future__ import annotations

import argparse
import ast
import copy
import csv
import json
import multiprocessing
import os
import pathlib
import random
import resource
import symtable
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import psutil
import torch

from rlhf_lessons.classroom.exercises import find_exercise

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
SECONDS = 10  # of the processor, for the check of one mutant; a right answer takes below one
MEMORY = 2**31  # bytes that a mutant may take beyond what this process has
EQUAL = ROOT / "benchmarks" / "kill_table.csv"
TABLE = ROOT / "docs" / "kill_table.md"
PAGE = """# Kill table

How many small mistakes the checks of the exercises let pass. Each solution is changed in one place
at a time, mechanically: an operator, comparison, sign, number, reduction or branch becomes another;
an argument by name, a method without arguments, a `with` or a statement is dropped. The exercise's
check runs on each such mutant with three seeds.

- *Killed*: refused.
- *Equal*: passes, and gives what the solution gives, or differs only in what the exercise leaves
  open; `benchmarks/kill_table.csv` holds the reason of each.
- *Survived*: passes, and should not.

Made by `python benchmarks/kill_table.py`. A sample of it runs with the tests.
"""

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
REDUCTIONS = {
    "sum": ("mean", "max"), "mean": ("sum",), "nansum": ("nanmean",),
    "max": ("min",), "min": ("max",),
    "amax": ("amin",), "amin": ("amax",), "argmax": ("argmin",), "argmin": ("argmax",),
    "maximum": ("minimum",), "minimum": ("maximum",), "any": ("all",), "all": ("any",),
    "logsumexp": ("sum",), "cumsum": ("cumprod",), "logcumsumexp": ("cumsum",),
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of one solution: what it says, and the source of the whole module with it."""

    exercise: str
    change: str  # "before → after", the smallest expression or statement around it
    source: str


# Mutations --------------------------------------------------------------------------------------


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """Give what may stand in the place of a node, each a new tree."""

    def other(**fields) -> ast.AST:
        return type(node)(**{**dict(ast.iter_fields(copy.deepcopy(node))), **fields})

    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield other(op=OPERATORS[type(op)]())
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for new in COMPARISONS[type(op)]:
                    yield other(ops=[*ops[:place], new(), *ops[place + 1 :]])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
            if value:
                yield ast.Constant(type(value)(0))
        case ast.Call(func=func, args=args, keywords=keywords):
            for place in range(len(keywords)):
                yield other(keywords=keywords[:place] + keywords[place + 1 :])
            if isinstance(func, ast.Attribute):
                for name in REDUCTIONS.get(func.attr, ()):
                    yield other(func=ast.Attribute(func.value, name, ast.Load()))
                if not args and not keywords:
                    yield func.value
            elif isinstance(func, ast.Name):
                for name in REDUCTIONS.get(func.id, ()):
                    yield other(func=ast.Name(name, ast.Load()))
        case ast.IfExp():
            yield other(body=node.orelse, orelse=node.body)
        case ast.comprehension(ifs=ifs) if ifs:
            yield other(ifs=[])
        case ast.If():
            yield other(test=ast.UnaryOp(ast.Not(), node.test))
            yield ast.Pass()
        case ast.Return(value=ast.BinOp() | ast.Call() | ast.Name()):
            yield other(value=ast.UnaryOp(ast.USub(), node.value))
        case ast.With():
            yield ast.If(ast.Constant(True), node.body, [])
        case ast.Expr(value=ast.Constant()):
            return  # the docstring
    if isinstance(node, ast.stmt) and not isinstance(
        node, ast.Return | ast.FunctionDef | ast.ClassDef | ast.If | ast.Pass | ast.With
    ):
        yield ast.Pass()


def nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Walk through a tree: each node with its parent, and where it stands there."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for place, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST):
                    yield parent, field, place if isinstance(value, list) else None, node


def mutants(exercise: str, module: ast.Module, function: ast.FunctionDef) -> list[Mutant]:
    """Make all mutants of a function's body; ``module`` holds the function and what it needs."""
    found, seen = [], Counter()
    for parent, field, place, node in list(nodes(ast.Module(function.body, []))):
        for new in changed(node):
            change = f"{first_line(node)} → {first_line(new)}"
            seen[change] += 1
            if seen[change] > 1:
                change += f" (place {seen[change]})"
            put(parent, field, place, new)
            found.append(Mutant(exercise, change, ast.unparse(ast.fix_missing_locations(module))))
            put(parent, field, place, node)
    return found


def put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def first_line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).strip().splitlines()[0]


# Solutions --------------------------------------------------------------------------------------


def solutions(asked: list[str]) -> Iterator[tuple[str, ast.Module, ast.FunctionDef]]:
    """Give each solution with a module of the lesson's imports and definitions it stands on."""
    sys.path.insert(0, str(ROOT / "notebooks"))
    from build import KEY, read_lesson

    lessons = {number.split(".")[0] for number in asked}
    for path in sorted((ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py")):
        lesson = str(int(path.name[:2]))
        if asked and lesson not in lessons:
            continue
        numbers, imports, defined = [], [], {}
        for cell in read_lesson(path).solution.cells:
            about = cell.metadata.get(KEY, {})
            if about.get("kind") == "exercise":
                numbers.append(about["exercise"])
            for statement in ast.parse(cell.source).body if cell.cell_type == "code" else ():
                match statement:
                    case ast.Import() | ast.ImportFrom():
                        imports.append(statement)
                    case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                        defined.setdefault(name, statement)
                    case ast.Assign(targets=[ast.Name(id=name)]):
                        defined.setdefault(name, statement)
        for number in numbers:
            if not asked or number in asked or lesson in asked:
                name = find_exercise(number).function
                names, new = set(), {name}
                while new:
                    names |= new
                    new = set().union(*(uses(defined[one]) for one in new)) & defined.keys() - names
                body = [statement for one, statement in defined.items() if one in names]
                yield number, ast.Module([*imports, *body], []), defined[name]


def uses(statement: ast.stmt) -> set[str]:
    """Give the global names that a statement reads, also from within functions."""
    tables, names = [symtable.symtable(ast.unparse(statement), "statement", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return names


# Verdicts ---------------------------------------------------------------------------------------


def passes(mutant: Mutant) -> bool:
    """Say whether the check accepts a mutant with every seed."""
    process = multiprocessing.get_context("fork").Process(target=examine, args=mutant)
    process.start()
    process.join(6 * SECONDS)  # a busy machine stretches them
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def examine(number: str, _: str, source: str) -> None:
    """Run the check on a module's function, and leave with status 1 where it is refused."""
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    exercise = find_exercise(number)
    namespace = {"__name__": "solution"}
    exec(compile(source, "solution.py", "exec"), namespace)
    function = namespace[exercise.function]
    refused = any(exercise.examine(function, seed).status != "passed" for seed in SEEDS)
    os._exit(int(refused))


def read_equal() -> dict[str, dict[str, str]]:
    """Give, for each exercise, the mutants that no check need refuse, with their reasons."""
    equal = defaultdict(dict)
    with EQUAL.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            equal[row["exercise"]][row["change"]] = row["reason"]
    return equal


def table_text(rows: list[dict]) -> str:
    """Give the page of docs that shows the rows of a run over all lessons."""
    counts = [
        (row["exercise"], row["mutants"], row["killed"], len(row["survived"]), len(row["equal"]))
        for row in rows
    ]
    counts.append(("all", *(sum(column) for column in list(zip(*counts, strict=True))[1:])))
    lines = "".join("| " + " | ".join(map(str, line)) + " |\n" for line in counts)
    return f"{PAGE}\n| exercise | mutants | killed | survived | equal |\n{5 * '| ---: '}|\n{lines}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("asked", nargs="*", metavar="NUMBER", help="a lesson or exercise: 3, 5.6")
    parser.add_argument("--sample", type=int, help="how many mutants to draw; all when left out")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    options = parser.parse_args()

    torch.set_num_threads(1)  # no thread may run while a process forks
    right, made = [], []
    for number, module, function in solutions(options.asked):
        right.append(Mutant(number, "none", ast.unparse(module)))
        exec(right[-1].source, {"__name__": "solution"})  # imports once, before the forks
        made += mutants(number, module, function)
    known = {one.exercise for one in right} | {one.exercise.split(".")[0] for one in right}
    if unknown := set(options.asked) - known:
        parser.error(f"NUMBER must be a lesson or an exercise, got {', '.join(sorted(unknown))}")
    if options.sample is not None:
        made = random.Random(options.seed).sample(made, min(options.sample, len(made)))
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        passed = dict(zip(right + made, pool.map(passes, right + made, chunksize=4), strict=True))

    rows, faults = [], [f"{one.exercise}: refuses the solution" for one in right if not passed[one]]
    equal = read_equal()
    for number in (solution.exercise for solution in right):
        own = [mutant for mutant in made if mutant.exercise == number]
        alive = [mutant.change for mutant in own if passed[mutant]]
        row = {
            "exercise": number,
            "mutants": len(own),
            "killed": len(own) - len(alive),
            "survived": [change for change in alive if change not in equal[number]],
            "equal": {change: equal[number][change] for change in alive if change in equal[number]},
        }
        print(json.dumps(row, ensure_ascii=False))
        rows.append(row)
        faults += [f"{number}: survived: {change}" for change in row["survived"]]
        if options.sample is None:
            unused = equal[number].keys() - row["equal"].keys()
            faults += [f"{number}: {EQUAL.name} lists what is killed: {one}" for one in unused]
    if not options.asked and options.sample is None:
        TABLE.write_text(table_text(rows), encoding="utf-8")
    print(*faults, sep="\n", end="", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
