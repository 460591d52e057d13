"""The gate: nothing acts by a path in folders of others; what acts by path says whose folder it is.

Every call that changes the file system by a path is found by its syntax, in the agent, its helpers,
Ansible's modules and filters. Each is refused unless its file stands in `BY_PATH` with that kind of
call and the reason: a folder that is root's alone all the way up, or the caller's own. A file that
acts in people's or services' folders (`HANDLES_ONLY`) has no such entry, and may not even read by
path there. What may be done is in `sekisho.core.safe_files`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SAFE = "agent/sekisho/core/safe_files.py"
#: These act in folders of others; value: the reads by path that they keep, and why.
HANDLES_ONLY: dict[str, dict[str, str]] = {
    "agent/sekisho/local/collect.py": {
        "open": "credentials that systemd lends this service alone",
    },
    "agent/sekisho/host/devices/exception_copy.py": {},
    "agent/sekisho/local/secret_files.py": {
        "os.stat": "an inode to compare with, nothing is acted on",
        "glob.glob": "names in /etc, /run and /boot",
    },
    "agent/sekisho/host/transfer/outbox.py": {},
    "playbooks/library/sekisho_accounts.py": {},
    "playbooks/library/sekisho_files.py": {},
    "playbooks/library/sekisho_packages.py": {
        ".resolve": "a package's file in apt's own folder",
    },
}
_CONTROL = "the folder of the person who runs it, on the controller"
_STATE = "/var/lib/sekisho, /run/sekisho or /etc/sekisho: root's all the way up"
_ETC = "/etc, /run and /var/lib/sekisho: root's all the way up"
_KERNEL = "/sys and /proc, where the kernel names the files"
_RECEIVER = "/var/lib/sekisho/incoming: the receiver's own, who is not root"
#: file → (whose folder it is, the kinds of call by path).
BY_PATH: dict[str, tuple[str, set[str]]] = {
    "agent/sekisho/host/cli/exception.py": (_STATE, {".unlink"}),
    "agent/sekisho/cli/main.py": ("/dev/null alone", {"os.open"}),
    "agent/sekisho/control/bundle/files.py": (_CONTROL, {".mkdir", ".rename", "os.open"}),
    "agent/sekisho/control/inventory/enrolment.py": (_CONTROL, {".mkdir"}),
    "agent/sekisho/host/devices/exception_state.py": (
        _STATE,
        {".mkdir", ".unlink", "os.link", "os.open"},
    ),
    "agent/sekisho/host/devices/exception_wall.py": (
        f"{_KERNEL}; {_STATE}",
        {".unlink", ".write_text"},
    ),
    "agent/sekisho/control/replay/namespaces.py": (_KERNEL, {".write_text"}),
    "agent/sekisho/host/guard/guard.py": (_STATE, {".touch"}),
    "agent/sekisho/host/guard/files.py": (_ETC, {".mkdir", ".replace", ".symlink_to", ".unlink"}),
    "agent/sekisho/host/guard/live.py": (_KERNEL, {".write_text"}),
    "agent/sekisho/host/guard/store.py": (
        _STATE,
        {".open", ".rename", ".replace", ".unlink", "os.utime", "shutil.rmtree"},
    ),
    "agent/sekisho/host/journal/disk.py": (_STATE, {".mkdir", ".replace", "os.open"}),
    "agent/sekisho/host/journal/socket.py": (_STATE, {".chmod", ".unlink", "os.chown"}),
    "agent/sekisho/host/devices/maintenance.py": (_STATE, {".mkdir", ".unlink"}),
    "agent/sekisho/host/devices/module_wall.py": (_KERNEL, {".write_text"}),
    "agent/sekisho/control/pki/authority.py": (_CONTROL, {".mkdir", "os.open"}),
    "agent/sekisho/core/files.py": (
        f"{_STATE}; {_CONTROL}",
        {".replace", ".unlink", "tempfile.mkstemp"},
    ),
    "agent/sekisho/host/kernel/quarantine.py": (_STATE, {".touch", ".unlink"}),
    "agent/sekisho/control/inventory/files.py": (_CONTROL, {".mkdir"}),
    "agent/sekisho/host/transfer/assembly.py": (_RECEIVER, {".mkdir", ".rename", ".touch"}),
    "agent/sekisho/host/transfer/files.py": (_RECEIVER, {".replace", "os.open"}),
    "agent/sekisho/host/transfer/receive.py": (
        _RECEIVER,
        {".unlink", "os.open", "tempfile.TemporaryFile"},
    ),
    "agent/sekisho/host/transfer/shelf.py": (_RECEIVER, {".mkdir"}),
    "agent/sekisho/host/transfer/store.py": (
        _RECEIVER,
        {
            ".hardlink_to",
            ".mkdir",
            ".rename",
            ".replace",
            ".touch",
            ".unlink",
            "shutil.rmtree",
        },
    ),
    "agent/sekisho/host/devices/admit.py": (f"{_KERNEL}; {_STATE}", {".write_text", "os.open"}),
    "agent/sekisho/host/devices/usb_policy.py": (_STATE, {".write_text"}),
    "agent/sekisho/host/agent/main.py": (_STATE, {".mkdir"}),
    "agent/sekisho/host/enrol.py": (_ETC, {".chmod", ".mkdir"}),
    "agent/sekisho/host/agent/parts/exceptions.py": (_STATE, {".unlink"}),
    "agent/sekisho/host/agent/parts/intake.py": (_STATE, {".mkdir"}),
    "agent/sekisho/host/agent/parts/rules.py": (_STATE, {".mkdir", ".unlink"}),
    "agent/sekisho/host/devices/exception.py": (_STATE, {".unlink"}),
    "agent/sekisho/host/line_request.py": (_ETC, {".mkdir"}),
    "playbooks/action_plugins/sekisho_guard.py": (_CONTROL, {"tempfile.TemporaryFile"}),
    "playbooks/library/sekisho_live.py": (_KERNEL, {".open"}),
}


def files(repository: Path) -> list[Path]:
    found = [
        *(repository / "agent/sekisho").rglob("*.py"),
        *(repository / "playbooks/library").glob("*.py"),
        *(repository / "playbooks/filter_plugins").glob("*.py"),
        *(p for p in (repository / "playbooks/module_utils").glob("*.py") if not p.is_symlink()),
        *(repository / "playbooks/action_plugins").glob("*.py"),
        *(
            path
            for path in (repository / "agent/helpers").iterdir()
            if path.read_bytes().startswith(b"#!/usr/bin/python3")
        ),
    ]
    return sorted(found)


CHANGES = frozenset(
    f"os.{name}"
    for name in (
        "chmod", "lchmod", "chown", "lchown", "unlink", "remove", "rename", "renames", "replace",
        "link", "symlink", "mkdir", "makedirs", "rmdir", "removedirs", "truncate", "utime",
        "mknod", "mkfifo", "setxattr", "removexattr",
    )
)  # fmt: skip
READS = frozenset(
    f"os.{name}" for name in ("stat", "lstat", "listdir", "scandir", "readlink", "walk", "access")
) | {"glob.glob", "glob.iglob"}
#: A path's methods that change; those of a handle's of the same name take more arguments.
METHODS = {
    "chmod": None, "lchmod": None, "touch": None, "write_text": None, "write_bytes": None,
    "symlink_to": None, "hardlink_to": None, "mkdir": None, "rmdir": None,
    "unlink": 0, "rename": 1, "replace": 1,
}  # fmt: skip
PATH_READS = {"read_text", "read_bytes", "iterdir", "rglob", "lstat", "readlink", "resolve"}
HARMLESS = {"shutil.which", "shutil.disk_usage", "shutil.get_terminal_size"}
OF_HANDLES = {"dir_fd", "src_dir_fd", "dst_dir_fd"}


def _mode(call: ast.Call, place: int) -> str:
    given: list[ast.expr] = [*call.args[place : place + 1]]
    given += [word.value for word in call.keywords if word.arg == "mode"]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "?"


def _function(call: ast.Call, whole: str) -> tuple[str, bool] | None:
    if whole == "open":
        return whole, _mode(call, 1) not in {"r", "rb"}
    if {word.arg for word in call.keywords} & OF_HANDLES:
        return None
    if whole == "os.open":
        text = ast.unparse(call)
        return whole, any(word in text for word in ("O_WRONLY", "O_RDWR", "O_CREAT", "flags"))
    if whole.startswith(("shutil.", "tempfile.")) and whole not in HARMLESS:
        return whole, True
    return (whole, whole in CHANGES) if whole in CHANGES | READS else None


def _method(call: ast.Call, name: str, whole: str) -> tuple[str, bool] | None:
    if name == "open" and call.args and whole not in {"Folder.open", "safe.Folder.open"}:
        mode = _mode(call, 0)
        by_path = mode != "?" and set(mode) <= set("rwxab+t")
        return (".open", mode not in {"r", "rb"}) if by_path else None
    if name in METHODS:
        takes = METHODS[name]
        other = takes is not None and len(call.args) != takes
        return None if other or (name == "replace" and call.keywords) else (f".{name}", True)
    return (f".{name}", False) if name in PATH_READS else None


def _kind(call: ast.Call) -> tuple[str, bool] | None:
    """Return the kind of a call by path, and whether it changes anything; None for others."""
    whole = ast.unparse(call.func)
    if whole == "open" or whole.startswith(("os.", "glob.", "shutil.", "tempfile.")):
        return _function(call, whole)
    return _method(call, call.func.attr, whole) if isinstance(call.func, ast.Attribute) else None


def calls(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield kind, whether it changes, and line, of every call by path in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "shutil", "tempfile", "glob"}:
            names = {alias.name for alias in node.names} - {"PathLike"}
            for name in sorted(names):
                yield f"from {node.module} import {name}", True, node.lineno
        if isinstance(node, ast.Call) and (found := _kind(node)) is not None:
            yield *found, node.lineno


def wrong(path: Path, name: str) -> list[str]:
    """Return the calls of a file that the lists do not cover."""
    found = list(calls(path))
    if name in HANDLES_ONLY:
        return [
            f"{name}:{line}: {kind}"
            for kind, changes, line in found
            if changes or kind not in HANDLES_ONLY[name]
        ]
    allowed = BY_PATH.get(name, ("", set()))[1]
    return [
        f"{name}:{line}: {kind}" for kind, changes, line in found if changes and kind not in allowed
    ]


def test_nothing_acts_by_path_but_where_the_list_says_whose_folder_it_is(repository: Path) -> None:
    off = []
    for path in files(repository):
        name = str(path.relative_to(repository))
        if name != SAFE:
            off += wrong(path, name)
    assert off == [], "use sekisho.core.safe_files, or say in BY_PATH whose folder it is"


def test_the_lists_hold_nothing_that_is_not_there(repository: Path) -> None:
    for name, kinds in HANDLES_ONLY.items():
        there = {kind for kind, _, _ in calls(repository / name)}
        assert set(kinds) <= there, name
        assert name not in BY_PATH
    for name, (reason, kinds) in BY_PATH.items():
        assert reason
        assert kinds == {kind for kind, changes, _ in calls(repository / name) if changes}, name


@pytest.mark.parametrize(
    "line",
    [
        "os.chmod(path, 0o600)", "os.chown(p, 0, 0)", "os.lchown(p, 0, 0)", "os.unlink(p)",
        "os.remove(p)", "os.rename(a, b)", "os.replace(a, b)", "os.mkdir(p)", "os.makedirs(p)",
        "os.open(p, os.O_WRONLY | os.O_CREAT)", "os.open(p, flags)", "open(p, 'w')",
        "open(p, mode='ab')", "open(p, how)", "os.truncate(p, 0)", "os.utime(p)",
        "os.mkfifo(p)", "os.symlink(a, b)", "os.link(a, b)", "shutil.rmtree(p)",
        "shutil.move(a, b)", "shutil.chown(p, 'root')", "tempfile.mkstemp(dir=p)",
        "Path(p).chmod(0o600)", "p.unlink()", "p.unlink(missing_ok=True)", "p.rename(q)",
        "p.replace(q)", "p.mkdir(parents=True)", "p.touch()", "p.write_text('x')",
        "p.open('w')", "(a / b).write_bytes(b'')", "p.symlink_to(q)", "p.hardlink_to(q)",
        "from os import chmod", "from shutil import rmtree", "os.setxattr(p, 'a', b'')",
    ],
)  # fmt: skip
def test_the_gate_sees_each_way_of_acting_by_path(tmp_path: Path, line: str) -> None:
    (tmp_path / "module.py").write_text(f"import os, shutil, tempfile\n{line}\n")
    assert wrong(tmp_path / "module.py", "agent/sekisho/edge/new.py")


@pytest.mark.parametrize(
    "line",
    [
        "os.unlink(n, dir_fd=h)", "os.rename(a, b, src_dir_fd=h, dst_dir_fd=h)",
        "'a'.replace('b', 'c')",
        "now.replace(microsecond=0)", "folder.unlink(name)", "folder.rename(a, b)",
        "shutil.which('nft')", "open(p)", "open(p, 'rb')", "os.open(n, os.O_WRONLY, dir_fd=h)",
        "shutil.rmtree(n, dir_fd=h)", "os.fchmod(h, 0o600)",
    ],
)  # fmt: skip
def test_the_gate_lets_handles_and_reads_pass(tmp_path: Path, line: str) -> None:
    (tmp_path / "module.py").write_text(f"import os, shutil\n{line}\n")
    assert wrong(tmp_path / "module.py", "agent/sekisho/edge/new.py") == []


@pytest.mark.parametrize("line", ["open(p)", "os.lstat(p)", "p.read_text()", "p.resolve()"])
def test_where_others_own_the_folders_reads_by_path_are_seen_too(tmp_path: Path, line: str) -> None:
    (tmp_path / "module.py").write_text(f"{line}\n")
    assert wrong(tmp_path / "module.py", "agent/sekisho/host/transfer/outbox.py")


# -- places ---------------------------------------------------------------------------------------

OTHERS = (
    "/home", "/tmp", "/var/tmp", "/dev/shm", "/var/spool", "/var/mail", "/srv", "/media", "/mnt",
    "/run/user", "/run/lock", "/root/",
)  # fmt: skip
#: Files that name such places and act on nothing there, and why.
NAMED = {
    "agent/sekisho/activity/watched.py": "places whose changes are told",
}


def test_only_who_uses_handles_names_places_of_others(repository: Path) -> None:
    off = []
    for path in files(repository):
        name = str(path.relative_to(repository))
        if name in HANDLES_ONLY or name in NAMED or "/probes/" in name or name == SAFE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and text.startswith(OTHERS) and " " not in text:
                off.append(f"{name}:{node.lineno}: {text}")
    assert off == []
    assert all((repository / name).exists() for name in NAMED)


#: Ansible's own modules that act on files by path.
BUILTIN = {
    "acl", "assemble", "archive", "blockinfile", "copy", "file", "get_url", "git", "ini_file",
    "lineinfile", "replace", "script", "synchronize", "template", "tempfile", "unarchive",
}  # fmt: skip
ROOTS = ("/etc/", "/usr/", "/run/", "/var/cache/", "/var/lib/sekisho/")


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict):
            yield item
            for key in (
                "tasks",
                "pre_tasks",
                "post_tasks",
                "handlers",
                "block",
                "rescue",
                "always",
            ):
                yield from tasks(item.get(key))


def test_no_task_acts_by_path_in_a_place_of_others(repository: Path) -> None:
    seen, off = 0, []
    for path in sorted((repository / "playbooks").rglob("*.yml")):
        text = path.read_text(encoding="utf-8")
        for task in tasks(yaml.safe_load(text)):
            seen += 1
            if task.get("delegate_to") == "localhost":
                continue
            for key, given in task.items():
                short = key.rpartition(".")[2]
                if short in BUILTIN and isinstance(given, dict):
                    place = str(given.get("dest", given.get("path", "?")))
                    if not place.startswith(ROOTS):
                        off.append(f"{path.name}: {key} {place}")
                if short in {"command", "shell"}:
                    words = str(given).replace("'", " ").replace(",", " ").split()
                    verbs = {"rm", "mv", "cp", "chmod", "chown", "ln", "tee", "install", "mkdir"}
                    if verbs & set(words) - ({"install"} if "apt-get" in words else set()):
                        off.append(f"{path.name}: {key} {given}")
    assert seen > 50
    assert off == []
