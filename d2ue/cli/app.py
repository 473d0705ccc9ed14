"""The command line: every command is a few calls of the module.

Whatever is wrong with what was given ends in one sentence on standard error and exit code 2; Ctrl-C
in exit code 130.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from d2ue import __version__
from d2ue.cli import images, tables
from d2ue.errors import INTERRUPTED, D2UEError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,  # plain help, the same on every terminal
    pretty_exceptions_enable=False,
)


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and end")] = False,
) -> None:
    """Anomaly detection by the disagreement of diverse autoencoders (D2UE, MICCAI 2024)."""
    if show:
        typer.echo(f"d2ue {__version__}")
        raise typer.Exit


for command, name in (
    (images.fit, "fit"),
    (images.score, "score"),
    (tables.reproduce, "reproduce"),
    (tables.status, "status"),
    (tables.controls, "controls"),
    (tables.claims, "claims"),
    (images.audit_folder, "audit"),
    (tables.list_datasets, "datasets"),
    (tables.download_dataset, "download"),
    (tables.export, "export"),
    (tables.import_, "import"),
):
    app.command(name)(command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command, turn errors into a sentence and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given or ["--help"], standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except D2UEError as error:
        _stop(_sentence(str(error)), 2)
    except Exception as error:  # typer's own, whichever click they come from
        if not hasattr(error, "format_message"):
            raise
        _stop(_sentence(error.format_message()), 2)
    if code == INTERRUPTED:  # which is also what typer makes of Ctrl-C
        logging.disable()  # asyncio would report the cell that a page was in
        _stop("interrupted; the same command goes on from the last state kept.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(message: str) -> str:
    text = " ".join(message.split())
    if len(text) > 1000:  # somebody pasted a file where a name belongs
        text = f"{text[:500]}...{text[-500:]}"
    return text if text.endswith((".", "?")) else f"{text}."


def _stop(sentence: str, code: int) -> None:
    typer.echo(f"d2ue: {sentence}", err=True)
    sys.exit(code)
