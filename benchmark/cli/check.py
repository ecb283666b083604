"""`bdbench check NAME`: whether a plugin keeps the contract of its kind."""

from __future__ import annotations

from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, load_plugins, note
from bdbench.errors import UsageError, first_line, nearest


def check(
    name: Annotated[str, typer.Argument(help="an attack or a defense: its name, as bdbench list shows it")],
    plugin: Plugins = None,
) -> None:
    """Check a plugin against the contract of its kind, on tiny models, and print what fails and why. Exit status 1 if any does.

    Nothing is downloaded, and nothing but these checks is run.
    """
    load_plugins(plugin)
    kinds = [kind for kind in ("attacks", "defenses") if name in REGISTRIES[kind].names()]
    if not kinds:
        known = [each for kind in ("attacks", "defenses") for each in REGISTRIES[kind].names()]
        raise UsageError(f"no attack or defense named '{name}'{nearest(name, known)}; bdbench list shows what there is")
    from bdbench.testing.contract import checks_of_attack, checks_of_defense, outcomes, why_unchecked

    checks_of = {"attacks": checks_of_attack, "defenses": checks_of_defense}
    checks = [check for kind in kinds for check in checks_of[kind](REGISTRIES[kind].get(name))]
    made, failed, held = [], 0, 0
    for outcome in outcomes(checks):
        made.append(outcome)
        if outcome.error is not None:
            failed += 1
            typer.echo(f"failed   {outcome.check}: {first_line(outcome.error)}")
        elif outcome.skipped is not None:
            typer.echo(f"skipped  {outcome.check}: {outcome.skipped}")
        else:
            held += 1
            typer.echo(f"ok       {outcome.check}")
    note(f"{name}: {held} of {len(checks)} clauses hold, {failed} do not, {len(checks) - held - failed} could not be checked")
    if reason := why_unchecked(made):
        note(f"{name}: {reason}")
    if failed or reason:
        raise typer.Exit(1)
