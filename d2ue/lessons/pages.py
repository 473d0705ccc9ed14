"""What every notebook does first: look at the parameters it was given, find what the project keeps.

papermill writes what it was told into a cell after the page's own parameters and only warns of a
name that the page does not have; `check_parameters` refuses it. A path in a parameter means what
the caller means by it, relative to the folder where the page runs; the project's own files are
found beside the package.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2ue.datasets.results_folder import claim
from d2ue.errors import InputError

#: What papermill's own cell begins with.
INJECTED = "# Parameters"
#: By declared type, what reads a text.
READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
}


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
        if cell.startswith(INJECTED):  # plain assignments
            names = [node.targets[0].id for node in ast.parse(cell).body]  # type: ignore[attr-defined]
            namespace |= {name: checked(name, namespace[name], known) for name in names}
    if namespace.get("out"):
        claim(namespace["out"])


def declared(cell: str) -> dict[str, str]:
    """The types of the parameters that a cell declares (`name: type = value`), by name."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # a cell with magics
        return {}
    declarations = [s for s in statements if isinstance(s, ast.AnnAssign)]
    return {ast.unparse(s.target): ast.unparse(s.annotation) for s in declarations}


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
    wanted, given = known[name], type(value).__name__
    if wanted not in READERS or given == wanted:
        return value
    if (given, wanted) in {("int", "str"), ("float", "str"), ("int", "float")} or given == "str":
        with contextlib.suppress(ValueError, KeyError):
            return READERS[wanted](value)
    raise InputError(f"The parameter {name} is of type {known[name]}; {value!r} is not.")
