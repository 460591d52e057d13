"""The `sekisho` command: names of subcommands and where they live; nothing else.

Each subcommand's module is imported only when it is called, so that a host's small services do
not pay for the control side's libraries.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import traceback
from typing import Any

from sekisho import __version__
from sekisho.core.errors import printable

#: Where a command's module may be, and Debian's package of it; a later one's commands win.
SIDES = (("control", "sekisho"), ("host", "sekisho-agent"))
#: Subcommand → its one-line help. Its module is of the same name and has a typer app named ``app``.
COMMANDS = {
    "site": "validate the site model, prove its invariants, write a host's files",
    "pki": "certificates of encrypted lines: request, issue, renew, revoke, list",
    "audit": "judge hosts against the catalogue, write an evidence bundle",
    "verify": "check an evidence bundle or a journal offline",
    "catalogue": "compile the control catalogue, render its traceability page",
    "send": "push a directory over the one-way hop",
    "receive": "receive directories over the one-way hop",
    "flows": "prove direction from the loaded rules; explain who may reach whom",
    "devices": "what is attached, what the policy makes of it; propose a rule",
    "exception": "let one device in for a while, by an order three people signed",
    "quarantine": "leave this host only its monitor and its console; and back",
    "agent": "the host agent: run it, enrol it, ask for its state",
}

USAGE = """\
Usage: sekisho COMMAND [OPTIONS]

Build, guard and prove an enclave for medical data (Article 6).

Commands:
{commands}

Try `sekisho COMMAND --help`.

Examples:
  sekisho audit --local                      an Article 6 gap table of this machine
  sekisho site check inventory/lab           prove the site model
  sekisho audit -i inventory/lab --out out --sign-key KEY    judge a whole site from outside
  sekisho verify out/evidence-lab-… --key KEY.pub.pem        judge the evidence again, offline

Exit codes: 0 compliant or done, 1 breach found, 2 could not tell, 3 usage or configuration,
130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        rows = [f"  {name:<10} {text}" for name, text in COMMANDS.items() if found(name)]
        sys.stdout.write(USAGE.format(commands="\n".join(rows)))
        return 0 if words else 3
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"sekisho {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        sys.stderr.write(
            f"sekisho: unknown command {words[0]!r}; expected one of {', '.join(COMMANDS)}\n"
        )
        return 3
    return _run(words[0], words[1:])


def found(name: str) -> list[str]:
    """Return the modules of a command that are installed here."""
    names = [f"sekisho.{side}.cli.{name}" for side, _ in SIDES]
    return [one for one in names if _is_here(one)]


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the whole side is not installed
        return False


def _run(name: str, words: list[str]) -> int:
    """Run a subcommand; whatever ends it, its exit code says no more than was seen.

    A crash is "could not tell", never Python's 1, which would read as a breach found.
    """
    from sekisho.cli.interrupt import CODE, SAID, Interrupt  # noqa: PLC0415 - not for `--version`

    interrupt = Interrupt()
    try:
        with interrupt.watched():
            code = _command(name, words)
            sys.stdout.flush()
    except KeyboardInterrupt:
        interrupt.came.set()
        code = CODE
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as failure:
        at = f"{printable(str(failure.filename), 200)}: " if failure.filename is not None else ""
        sys.stderr.write(f"sekisho {name}: {at}{failure.strerror or failure}\n")
        code = 3
    except ModuleNotFoundError as missing:
        sys.stderr.write(
            f"sekisho {name}: this command needs the Python module {missing.name}, which is not "
            "installed here\n"
        )
        code = 3
    except Exception:  # noqa: BLE001 - a defect of ours, shown whole
        if not interrupt.came.is_set():
            traceback.print_exc()
            sys.stderr.write(f"sekisho {name}: internal error; nothing can be said\n")
        code = 2
    if interrupt.came.is_set():
        sys.stderr.write(SAID)
        return CODE
    return code


def _add(command: Any, other: Any) -> None:
    """Add the subcommands of the other side; a command without any is the control side's."""
    if not hasattr(command, "commands"):
        return
    for name, sub in other.commands.items():
        mine = command.commands.get(name)
        if mine is not None and hasattr(mine, "commands"):
            _add(mine, sub)
        else:
            command.add_command(sub, name)


def _command(name: str, words: list[str]) -> int:
    import typer  # noqa: PLC0415 - a service that only imports this module does not need it

    from sekisho.core.errors import SekishoError  # noqa: PLC0415

    modules = found(name)
    if not modules:
        packages = " or ".join(package for _, package in SIDES)
        sys.stderr.write(f"sekisho {name}: not installed here; it is part of {packages}\n")
        return 3
    command, *more = (
        typer.main.get_command(importlib.import_module(module).app) for module in modules
    )
    for one in more:
        _add(command, one)
    try:
        result = command.main(args=words, prog_name=f"sekisho {name}", standalone_mode=False)
    except SekishoError as failure:
        sys.stderr.write(f"sekisho {name}: {failure.diagnostics()}\n")
        return 3
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as leave:  # click makes a pipe that broke an exit 1, "breach found"
        if isinstance(leave.__context__, BrokenPipeError):
            raise BrokenPipeError from None
        raise
    except Exception as wrong:
        # Newer typer carries its own copy of click, Debian's uses click's: both know how to show
        # a usage error, and nothing else has these two.
        show = getattr(wrong, "show", None)
        if show is None or not hasattr(wrong, "exit_code"):
            raise
        show()
        return 3
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
