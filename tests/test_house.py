"""The house: imports run downwards, in no circle; the method is short; no private name travels."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOM = Path(__file__).parents[1] / "d2ue"
METHOD = [
    *("plain", "config", "similarity", "backbones", "losses", "training", "learners"),
    *("ensemble", "uncertainty", "evaluation"),
]
#: What a room may import: those of its own line and of the lines above.
LAYERS = [
    ["errors", "progress", ""],
    ["fast", "datasets"],
    METHOD,
    ["store", "statistics", "plotting", "baselines"],
    ["experiments", "lessons", "audit", "detector"],
    ["cli"],
    ["__main__", "saved"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOM.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOM.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of the package that a file imports, and names; also inside functions."""
    tree = ast.parse(path.read_text())
    for_types = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    ]
    unseen = {id(inner) for node in for_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2ue":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module, alias.name
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.split(".")[0] == "d2ue")


GRAPH = {module: set(imports(path)) for module, path in FILES.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_run_downwards():
    upward = [
        f"{module} imports {other}"
        for module, found in GRAPH.items()
        for other, _ in found
        if module != "d2ue" and HEIGHT[room(other)] > HEIGHT[room(module)]
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: {other for other, _ in found} for module, found in GRAPH.items()}
    # The package's own file lends names out when they are asked for.
    graph["d2ue"] = set()
    list(graphlib.TopologicalSorter(graph).static_order())


def test_plain_stands_alone_and_fast_needs_only_the_errors():
    assert not GRAPH["d2ue.plain"]
    below = {room(o) for module, found in GRAPH.items() if room(module) == "fast" for o, _ in found}
    assert below <= {"fast", "errors"}


def test_no_private_name_is_imported():
    private = [
        f"{module}: {other}.{name}"
        for module, found in GRAPH.items()
        for other, name in found
        if name.startswith("_") and not name.startswith("__")
    ]
    assert not private


def test_files_are_short():
    most = {f"d2ue.{name}": 250 if name == "plain" else 350 for name in METHOD}
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert not {m: n for m, n in lines.items() if n > most.get(m, 500)}
