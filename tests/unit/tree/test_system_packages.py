"""What a command needs from Debian stands in its list, and the lists say what Debian's packages do.

``make demo`` once ended after 17 minutes because the proof wanted ``nft``, which only ``make test``
installed: the programs that a command starts are read off its own code here.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LISTS = REPOSITORY / "requirements/debian"
SOURCES = (REPOSITORY / "agent", REPOSITORY, REPOSITORY / "tests", REPOSITORY / "vagrant")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: Functions whose first argument is a program, or a list that begins with one.
STARTERS = {
    "run", "_run", "Popen", "check_output", "check_call", "execvp", "execvpe", "inside",
    "replace_process", "which",
}  # fmt: skip
#: Where a command of the Makefile begins; its imports are followed.
BEGINS = {
    "demo": ("tests/vm/demo.py", "vagrant/labkit/cli.py", "tests/vm/attacks/*.py"),
    "lab": ("vagrant/labkit/cli.py",),
    "check": ("tests/conftest.py", "tests/unit/*/*.py", "tests/kernel/*.py", "tests/property/*.py",
              "tests/corpus/*.py"),
    "test-lab": ("tests/conftest.py", "tests/vm/*.py", "tests/vm/devices/*.py",
                 "tests/vm/attacks/*.py"),
    "bench": ("tests/bench/*.py",),
    "deb": ("agent/build-deb",),
}  # fmt: skip
#: Shell that a command runs; each word in a command's place counts.
SHELLS = {
    "lab": ("vagrant/build-box", "vagrant/install"),
    "demo": ("vagrant/build-box", "vagrant/install"),
}
#: Programs of the servers: the code that starts them is imported here, and run there.
ON_SERVERS = {
    "auditctl", "chronyc", "rmmod", "modprobe", "swanctl", "systemctl", "systemd-run", "udevadm",
    "sshd", "wg", "cvtsudoers",
}  # fmt: skip
#: Programs that a bench names and asks to be installed by hand.
BY_HAND = {"laurel"}


@cache
def listed(command: str) -> dict[str, tuple[str, ...]]:
    """Return the packages of a command's list, each with the programs it is there for."""
    found: dict[str, tuple[str, ...]] = {}
    for line in (LISTS / f"{command}.txt").read_text(encoding="utf-8").split("\n"):
        if line.startswith("-r "):
            found |= listed(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            package, _, programs = line.partition(":")
            found[package] = tuple(programs.split())
    return found


def commands() -> list[str]:
    return sorted(path.stem for path in LISTS.glob("*.txt"))


def module_file(name: str) -> Path | None:
    for root in SOURCES:
        path = root.joinpath(*name.split("."))
        for one in (path.with_suffix(".py"), path / "__init__.py"):
            if one.is_file():
                return one
    return None


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(tree_of(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from filter(None, map(module_file, names))


def closure(patterns: tuple[str, ...]) -> set[Path]:
    waiting = [path for pattern in patterns for path in REPOSITORY.glob(pattern)]
    assert waiting, f"{patterns}: no such file"
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path)
    return seen


def first_word(node: ast.expr) -> str | None:
    if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
        node = node.elts[0]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.rpartition("/")[2]
    return None


def started(path: Path) -> set[str]:
    """Return the programs that a file's calls name; constants in capitals may be such a list."""
    found: set[str | None] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else (
                node.func.id if isinstance(node.func, ast.Name) else "")  # fmt: skip
            if name in STARTERS:
                found.add(first_word(node.args[0]))
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in {"ARGV", "argv", "words", "command", "daemon"}
        ):
            found.add(first_word(node.value))
    return {word for word in found if word and re.fullmatch(r"[a-z][a-z0-9_.+-]*", word)}


def of_shell(path: Path) -> set[str]:
    """Return the words in a command's place of a shell script."""
    text = re.sub(r"(?m)#.*$|'[^']*'", "", path.read_text(encoding="utf-8"))
    return set(
        re.findall(r"(?m)(?:^\s*|[|;&(]\s*|\b(?:if|then|do|else)\s+)([a-z][a-z0-9-]+)\b", text)
    )


def needed(command: str) -> set[str]:
    found: set[str] = set()
    for path in closure(BEGINS[command]):
        # Fast tests import the lab's driver for its pure parts; they bring no machine up.
        if command != "check" or REPOSITORY / "vagrant" not in path.parents:
            found |= started(path)
    for name in SHELLS.get(command, ()):
        found |= of_shell(REPOSITORY / name)
    return found


@cache
def owners() -> dict[str, tuple[str, ...]]:
    """Return the packages that own a program of this machine, found by dpkg's own lists."""
    found: dict[str, set[str]] = {}
    for path in Path("/var/lib/dpkg/info").glob("*.list"):
        package = path.stem.partition(":")[0]
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            folder, _, name = line.rpartition("/")
            if folder in {"/bin", "/sbin", "/usr/bin", "/usr/sbin"}:
                found.setdefault(name, set()).add(package)
    return {name: tuple(sorted(packages)) for name, packages in found.items()}


@cache
def on_every_machine() -> frozenset[str]:
    """Return the packages that a Debian system has without being asked."""
    form = "${Package} ${Priority} ${Essential}\n"
    rows = subprocess.run(
        ["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    return frozenset(
        row.split()[0]
        for row in rows
        if {"required", "important", "standard", "yes"} & set(row.split()[1:])
    )


@cache
def source(package: str) -> str:
    """Return the source package that a package of this machine is built from."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Package}\n", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split("\n")[0] or package


@pytest.mark.process
@pytest.mark.parametrize("command", sorted(BEGINS))
def test_every_program_a_command_starts_is_in_its_list(command: str) -> None:
    programs = {name for names in listed(command).values() for name in names}
    missing = {
        program: owners()[program]
        for program in needed(command) - programs - ON_SERVERS - BY_HAND
        if program
        in owners()  # what no package of this machine holds is no program, or checked below
        and not set(owners()[program]) & (set(listed(command)) | on_every_machine())
    }
    assert not missing, f"requirements/debian/{command}.txt lacks the packages of {missing}"


def test_the_programs_are_found_where_they_are_known_to_be() -> None:
    """The search itself: were it blind, the test above would pass for ever."""
    assert {"nft", "ip", "unshare", "qemu-img", "openssl", "mke2fs", "git"} <= needed("demo")
    assert {"mmdebstrap", "openssl", "chroot"} <= needed("lab")
    assert {"dpkg-buildpackage"} <= needed("deb")
    assert {"ip", "nft", "promtool", "dpkg-deb", "unshare"} <= needed("check")


@pytest.mark.parametrize("command", commands())
def test_each_list_is_sorted_out_and_whole(command: str) -> None:
    assert listed(command), command
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    used = {name for line in makefile.split("\n") for name in re.findall(r"needs-([a-z-]+)", line)}
    used |= set(re.findall(r"--for ([a-z-]+)", makefile))
    taken_in = {
        word.removesuffix(".txt")
        for path in LISTS.glob("*.txt")
        for word in re.findall(r"(?m)^-r (\S+)$", path.read_text(encoding="utf-8"))
    }
    assert command in used | taken_in, f"{command}.txt is used by no target"
    assert used <= set(commands()), f"the Makefile names lists that are not there: {used}"


@pytest.mark.process
@pytest.mark.parametrize("command", commands())
def test_each_program_of_a_list_is_its_packages(command: str) -> None:
    wrong = {
        program: owners()[program]
        for package, programs in listed(command).items()
        for program in programs
        # Debian 13 has promtool in a package of its own, which prometheus brings.
        if program in owners() and source(package) not in map(source, owners()[program])
    }
    assert not wrong
    absent = [
        program
        for package, programs in listed(command).items()
        if Path(f"/var/lib/dpkg/info/{package}.list").exists()
        for program in programs
        if shutil.which(program, path=PATH) is None
    ]
    assert not absent, "a package is here without the program it is listed for"


@pytest.mark.process
def test_the_installer_reads_the_lists_as_this_test_does() -> None:
    shell = f"set -- ; lists={LISTS}; " + re.search(
        r"packages_of\(\) \{.*?\n\}\n",
        (REPOSITORY / "vagrant/install").read_text(encoding="utf-8"),
        re.DOTALL,
    )[0] + 'packages_of "$COMMAND_NAME"'  # fmt: skip
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", shell], check=True, capture_output=True, text=True,
            env={"PATH": PATH, "COMMAND_NAME": command},
        )  # fmt: skip
        assert set(done.stdout.split()) == set(listed(command))
