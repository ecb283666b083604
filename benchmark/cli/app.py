"""The application: its commands, and how it ends.

Standard output is data, standard error is progress. Exit status: 0 all cells ok, 1 some cell failed, could not be stored, is
not what its predictions say (verify) or was left out (--strict), 2 bad usage, 3 a word piece that works like a trigger
(inspect), 130 and 143 ended by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys

import typer

from bdbench.cli.check import check
from bdbench.cli.claims import claims
from bdbench.cli.compare import compare
from bdbench.cli.doctor import doctor
from bdbench.cli.inspect import inspect
from bdbench.cli.list import list_plugins
from bdbench.cli.new import new
from bdbench.cli.purify import purify
from bdbench.cli.report import report
from bdbench.cli.run import run
from bdbench.cli.show import show
from bdbench.cli.status import status
from bdbench.cli.streams import survive_readers
from bdbench.cli.tune import tune
from bdbench.cli.verify import verify
from bdbench.errors import StorageError, UsageError, WorkersLost, in_one_line

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare defenses against backdoor attacks on fine-tuned language models.",
)
app.command("list")(list_plugins)
app.command()(show)
app.command()(run)
app.command()(status)
app.command()(report)
app.command()(claims)
app.command()(tune)
app.command()(verify)
app.command()(compare)
app.command()(inspect)
app.command()(purify)
app.command()(new)
app.command()(check)
app.command()(doctor)


def main(command: typer.Typer = app) -> None:
    """Entry point: bad usage is one line on standard error and exit status 2."""
    survive_readers()
    words = sys.argv[1:] or (["--help"] if command is app else [])
    try:
        sys.exit(command(words, standalone_mode=False))
    except (StorageError, WorkersLost) as error:
        typer.echo(f"bdbench: {in_one_line(str(error))}", err=True)
        sys.exit(1)
    except UsageError as error:
        message = str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: an unknown flag, or a value of the wrong type
            raise
        message = error.format_message()
        if context := getattr(error, "ctx", None):
            lists = "commands" if hasattr(context.command, "commands") else "flags"
            message += f" ({context.command_path} --help lists the {lists})"
    typer.echo(f"bdbench: {in_one_line(message)}", err=True)
    sys.exit(2)
