"""`sekisho devices` on the control side: recorded devices, and orders for maintenance."""

from __future__ import annotations

import typer

from sekisho.cli.devices import HELP, add_commands
from sekisho.control.cli.devices_modules import app as modules_app

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(modules_app, name="modules")
add_commands(app)
