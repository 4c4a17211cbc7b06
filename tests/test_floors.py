"""The house of five floors: imports only descend, and importing the package stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rlhf_lessons"
FLOORS = {
    "formulas": 1,
    "worlds": 2,
    "models": 2,
    "training": 3,
    "evaluation": 4,
    "classroom": 5,
}
# Who may import what from outside: everyone else must not, at any depth of the file.
ONLY = {
    "transformers": {"models"},
    "tokenizers": {"models"},
    "peft": {"models"},
    "matplotlib": {"classroom", "evaluation"},
    "ipywidgets": {"classroom"},
    "IPython": {"classroom"},
}
TORCHLESS = {"worlds"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def floor_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def dotted(path: Path) -> str:
    parts = ("rlhf_lessons", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Every dotted name that ``source`` imports, relative imports resolved against ``module``."""
    names = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{stem}.{alias.name}" for alias in node.names)
    return names


def own_floor(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "rlhf_lessons" or len(parts) < 2:
        return None
    return parts[1] if parts[1] in FLOORS else None


def violations(source: str, module: str, floor: str, is_package: bool = False) -> list[str]:
    found = []
    for name in sorted(imports(source, module, is_package)):
        target = own_floor(name)
        if target and target != floor and FLOORS[target] >= FLOORS[floor]:
            found.append(
                f"{module} (floor {FLOORS[floor]}) imports {name} (floor {FLOORS[target]})"
            )
        top = name.split(".")[0]
        if top in ONLY and floor not in ONLY[top]:
            found.append(f"{module} imports {top}, which only {sorted(ONLY[top])} may")
        if top == "torch" and floor in TORCHLESS:
            found.append(f"{module} imports torch; {floor} must not")
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_only_descend(path: Path):
    floor = floor_of(path)
    if floor is None:
        return
    assert floor in FLOORS or not list(path.parent.glob("*.py")), f"{floor} is not a floor"
    assert violations(path.read_text(), dotted(path), floor, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("source", "floor"),
    [
        ("from rlhf_lessons.training import train_sft", "models"),
        ("def f():\n    import rlhf_lessons.classroom.widgets", "formulas"),
        ("from ..worlds import reviews", "models"),
        ("from .. import training", "models"),
        ("import torch", "worlds"),
        ("from transformers import AutoModel", "training"),
        ("import matplotlib.pyplot as plt", "models"),
    ],
)
def test_the_check_catches_what_it_forbids(source: str, floor: str):
    assert violations(source, f"rlhf_lessons.{floor}.x", floor)


def test_no_import_cycles():
    edges = {}
    names = {dotted(path): path for path in modules()}
    for name, path in names.items():
        targets = imports(path.read_text(), name, path.name == "__init__.py")
        # ``from package import module`` names the module; ``from module import f`` its owner.
        edges[name] = {
            target if target in names else target.rpartition(".")[0] for target in targets
        } & set(names) - {name}

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]):
        assert name not in trail, "import cycle: " + " -> ".join([*trail, name])
        if name not in done:
            for target in edges[name]:
                # A floor's __init__ re-exports its modules; a module that names its own floor's
                # __init__ would be a cycle, and is one here too.
                visit(target, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_no_room_is_named_for_nothing():
    vague = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert [dotted(path) for path in modules() if path.stem in vague] == []


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "matplotlib", "ipywidgets", "numpy", "IPython")
    code = f"import sys, rlhf_lessons; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_worlds_loads_no_torch():
    assert run_python("import sys, rlhf_lessons.worlds; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("floor", ["formulas", "models", "training", "evaluation", "classroom"])
def test_importing_a_floor_loads_no_transformers(floor: str):
    code = f"import sys, rlhf_lessons.{floor}; print('transformers' in sys.modules)"
    assert run_python(code) == "False"


def test_an_unknown_name_is_an_attribute_error():
    import rlhf_lessons

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlhf_lessons.nothing
