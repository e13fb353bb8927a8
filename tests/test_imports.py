"""Imports go down the order in CONTRIBUTING.md, without circles, and load nothing before it is needed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from command_line import run_python

import cifar_trainer

ROOT = Path(cifar_trainer.__file__).resolve().parent
CONTRIBUTING = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """The modules of this package that a module imports anywhere, except for type checking."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (full if full in MODULES else node.module for full in names if node.module in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


#: A package or a module directly below cifar_trainer, to the place of its line in the order, from the top.
def order() -> dict[str, int]:
    found = re.search(r"```text\n(cli\n.*?)```", CONTRIBUTING, re.DOTALL)
    assert found is not None
    return {name: place for place, line in enumerate(found[1].splitlines()) for name in line.split(" · ")}


def unit(name: str) -> str:
    return name.split(".")[1]


def test_the_order_in_contributing_names_every_package_and_module() -> None:
    assert set(order()) == {unit(name) for name in MODULES if "." in name} - {"__main__"}


def test_the_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`([a-z_/]+\.py)`", CONTRIBUTING)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_modules_import_only_what_is_below_them() -> None:
    place = order()
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        if "." in name and unit(name) in place
        for other in imported(name)
        # The root package has __version__, which every module may read.
        if other != "cifar_trainer" and unit(other) != unit(name) and place[unit(other)] <= place[unit(name)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imported(name)) - {name, "cifar_trainer"} for name in MODULES}
    while free := [name for name, others in graph.items() if not others & set(graph)]:
        for name in free:
            del graph[name]
    assert graph == {}


#: What takes long to import.
SLOW = {"tensorflow", "keras", "scipy", "sklearn", "matplotlib", "optuna", "sqlalchemy", "PIL"}


def test_importing_the_package_imports_nothing_else_that_is_large() -> None:
    code = f"import cifar_trainer, sys; print(*({SLOW | {'numpy', 'rich', 'click'}!r} & set(sys.modules)))"
    assert run_python(["-c", code], own_process=True).stdout == "\n"


def test_every_function_of_the_package_can_be_looked_at_without_tensorflow() -> None:
    """`help(cifar_trainer.train)`, and completion in an editor."""
    code = (
        "import cifar_trainer, sys\n"
        "for name in cifar_trainer.__all__: getattr(cifar_trainer, name)\n"
        "print(*({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = run_python(["-c", code], own_process=True)
    assert done.stdout == "\n", done.stderr
