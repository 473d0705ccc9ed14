"""What every notebook does first: look at the parameters it was given, find what the project keeps.

papermill writes what it was told into a cell after the page's own parameters and only warns of a
name that the page does not have; `check_parameters` refuses it. A path in a parameter means what
the caller means by it, relative to the folder where the page runs; the project's own files are
found beside the package.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2ue.datasets.results_folder import claim
from d2ue.errors import InputError

#: What papermill's own cell begins with.
INJECTED = "# Parameters"
TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


def kept(value: str, place: str, *, needed: bool = True) -> str:
    """`value`, or the project's own file where it is "kept".

    Args:
        value: a parameter of a page.
        place: of the file or folder below figures/.
        needed: whether it has to be there; else "" stands for what is not.

    Raises:
        InputError: if the project keeps nothing there.
    """
    if value != "kept":
        return value
    path = Path(__file__).resolve().parents[2] / "figures" / place
    if path.exists():
        return str(path)
    if needed:
        raise InputError(
            f"The project keeps no {place}: name a file or folder of your own instead of 'kept'."
        )
    return ""


def check_parameters(namespace: dict[str, Any], cells: Sequence[str] | None = None) -> None:
    """Refuse parameters that the page does not have, and bring values to the declared types.

    A number given for a text becomes a text (`-p seeds 3`).

    Args:
        namespace: the page's `globals()`; parameters in it are set to the checked values.
        cells: the sources of the cells that have run; None = those of this kernel.

    Raises:
        InputError: on an unknown name or a value of another type, or where the folder `out` holds
            something else than results.
    """
    if cells is None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        cells = shell.user_ns.get("In", ()) if shell else ()
    known = declared(next((cell for cell in cells if declared(cell)), ""))
    for cell in cells:
        if cell.startswith(INJECTED):
            for name in assigned(cell):
                namespace[name] = checked(name, namespace[name], known)
    if namespace.get("out"):
        claim(namespace["out"])


def declared(cell: str) -> dict[str, str]:
    """The types of the parameters that a cell declares (`name: type = value`), by name."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # a cell with magics
        return {}
    return {
        statement.target.id: ast.unparse(statement.annotation)
        for statement in statements
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def assigned(cell: str) -> list[str]:
    """The names that a cell of plain assignments gives values to."""
    return [
        target.id
        for statement in ast.parse(cell).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def checked(name: str, value: Any, known: Mapping[str, str]) -> Any:
    """A parameter's value, of its declared type.

    Args:
        name: the parameter's.
        value: of the type, or a text or number that can be read as it.
        known: type by name.

    Raises:
        InputError: if the page has no such parameter, or the value is not of its type.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"The notebook has no parameter {name!r}: its parameters are {', '.join(known)}.{hint}"
        )
    wanted = TYPES.get(known[name])
    if wanted is None or type(value) is wanted:
        return value
    if wanted is str and type(value) in (int, float):
        return str(value)
    if wanted is float and type(value) is int:
        return float(value)
    if isinstance(value, str):
        if wanted is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if wanted in (int, float):
            try:
                return wanted(value)
            except ValueError:
                pass
    raise InputError(f"The parameter {name} is of type {known[name]}; {value!r} is not.")
