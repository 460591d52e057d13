"""How every command ends: 130 on Ctrl-C, 3 for what its caller can mend, 2 for our own defects."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from sekisho.cli import main as commands
from sekisho.cli.main import main

SEKISHO = Path(sys.executable).with_name("sekisho")


def run(*words: str | Path, stdin: str = "", **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SEKISHO, *map(str, words)], input=stdin, capture_output=True, text=True, check=False,
        timeout=120, **more,
    )  # fmt: skip


# -- an output that cannot be written --------------------------------------------------------------

EXAMPLE = Path(__file__).resolve().parents[3] / "inventory/example"
PLACES = ("/proc/x", "/dev/null/x", "/etc/hostname/x/y")
OUTPUTS = [
    ("audit", "--local", "--item", "6-iv-e", "--out"),
    ("catalogue", "compile", "--out"),
    ("catalogue", "render", "--out"),
    ("catalogue", "paths", "--out"),
    ("site", "show", EXAMPLE, "--svg"),
    ("site", "render", EXAMPLE, "--out"),
    ("site", "keys"),
]


@pytest.mark.process
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("words", OUTPUTS, ids=lambda words: " ".join(map(str, words[:2])))
def test_an_output_that_cannot_be_written_is_exit_3_and_no_traceback(
    words: tuple[str, ...], place: str
) -> None:
    done = run(*words, place)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= done.stderr.count("\n") <= 4


@pytest.mark.process
def test_every_option_that_writes_is_tried() -> None:
    """Each option of the commands whose type is a path to write to stands in the table above."""
    told = {word for words in OUTPUTS for word in words if str(word).startswith("--")}
    writing = set()
    for name, module in ((n, one) for n in commands.COMMANDS for one in commands.found(n)):
        top = typer.main.get_command(importlib.import_module(module).app)
        for command in getattr(top, "commands", {name: top}).values():
            writing |= {
                option for parameter in command.params for option in parameter.opts
                if option in {"--out", "--svg", "--output"}
            }  # fmt: skip
    assert writing <= told


@pytest.mark.process
def test_a_reader_that_has_enough_is_no_breach() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [SEKISHO, "catalogue", "render"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE
    assert b"Traceback" not in done.stderr


# -- whatever goes wrong inside -------------------------------------------------------------------


class Parts:
    """A command that ends as told."""

    def __init__(self, bad: BaseException) -> None:
        self.bad = bad

    def __call__(self, *_: object) -> int:
        raise self.bad


@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        (KeyError("kind"), 2, "internal error"),
        (RecursionError("deep"), 2, "internal error"),
        (MemoryError(), 2, "internal error"),
        (AttributeError("x"), 2, "internal error"),
        (PermissionError(13, "Permission denied", "/var/x"), 3, "/var/x: Permission denied"),
        (ModuleNotFoundError("no", name="prometheus_client"), 3, "prometheus_client"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_crash_is_never_a_breach_found(
    bad: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(commands, "_command", Parts(bad))
    assert main(["site", "check"]) == code
    assert said in capsys.readouterr().err


# -- Ctrl-C ----------------------------------------------------------------------------------------

SLOW = """
import signal, sys, time
# A shell starts what runs in its background with the signal ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
from sekisho.cli import main
def native(name, words):
    {body}
    return 0
main._command = native
print("begun", flush=True)
sys.exit(main.main(["site"]))
"""
BODIES = {
    "python": "while True: pass",
    "sleep": "time.sleep(60)",
    "foreign code that swallows it": (
        "import ctypes; back = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)\n"
        "    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end: back()"
    ),
    "one call of seconds in C": (
        "import ctypes; ctypes.CDLL(None).usleep(0); libc = ctypes.CDLL(None)\n"
        "    import signal; signal.siginterrupt(signal.SIGINT, False)\n"
        "    sum(1 for _ in range(3) for _ in [pow(7, 2 ** 26, 2 ** 4000000 + 1)])"
    ),
    "code that swallows it": (
        "end = time.monotonic() + 60\n"
        "    while time.monotonic() < end:\n"
        "        try: time.sleep(5)\n"
        "        except BaseException: pass"
    ),
    "a solver": (
        "import z3; s = z3.Solver(); s.set('ctrl_c', False)\n"
        "    x = [z3.BitVec(f'x{i}', 64) for i in range(6)]\n"
        "    s.add(x[0] * x[1] * x[2] == 0x7fffffffffffffe7 * x[3], x[4] * x[5] == x[0] + 1,\n"
        "          *[z3.UGT(one, 3) for one in x]); s.check()\n"
        "    time.sleep(60)"
    ),
}


@pytest.mark.process
@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_ends_with_130_whatever_runs(body: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW.format(body=BODIES[body])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        sent = time.monotonic()
        try:
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
        took = time.monotonic() - sent
    assert running.returncode == 130, err
    # ctypes says for itself that a callback of its was interrupted.
    assert err.endswith("sekisho: interrupted\n")
    assert took < 10, "a second on a quiet machine; this one may be busy"


def test_no_solver_takes_ctrl_c_for_itself(repository: Path) -> None:
    made = quiet = 0
    for path in (repository / "agent/sekisho").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        made += text.count("z3.Solver(") + text.count("z3.SolverFor(") + text.count("z3.Optimize(")
        quiet += text.count('.set("ctrl_c", False)')
    assert made == quiet > 0
