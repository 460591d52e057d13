"""Ansible's own variables in the inventory: those that leave the pinned host keys in force. Pure.

The playbooks, the guard and the audit all rest on one thing: the machine that answers is the one
whose host key is pinned. A variable that goes round SSH, or round its check, is refused by name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from sekisho.core.errors import printable
from sekisho.core.yaml_nodes import Node, Reader

#: Variables that may stand in the inventory, with any plain value.
_FREE = frozenset(
    (
        "ansible_host", "ansible_user", "ansible_port", "ansible_become", "ansible_become_user",
        "ansible_become_method", "ansible_python_interpreter", "ansible_ssh_private_key_file",
        "ansible_timeout", "ansible_ssh_timeout", "ansible_ssh_retries", "ansible_pipelining",
        "ansible_ssh_pipelining", "ansible_ssh_use_tty", "ansible_remote_tmp",
        "ansible_check_mode", "ansible_diff_mode", "mitogen_ssh_keepalive_interval",
        "mitogen_ssh_keepalive_count", "mitogen_ssh_compression", "mitogen_task_isolation",
    )
)  # fmt: skip
_ARGUMENTS = frozenset(("ansible_ssh_common_args", "ansible_ssh_args", "ansible_ssh_extra_args"))
_FIXED = {
    "ansible_connection": ("ssh", "ansible.builtin.ssh"),
    "ansible_host_key_checking": ("true", "yes"),
    "ansible_ssh_host_key_checking": ("true", "yes"),
}
#: Options of ssh_config(5) that neither choose whose key is trusted nor run a program here.
_OPTIONS = frozenset(
    (
        "addressfamily", "batchmode", "bindaddress", "bindinterface", "ciphers", "compression",
        "connectionattempts", "connecttimeout", "controlmaster", "controlpath", "controlpersist",
        "hostkeyalgorithms", "identitiesonly", "identityfile", "ipqos", "kexalgorithms", "loglevel",
        "macs", "port", "preferredauthentications", "proxyjump", "pubkeyacceptedalgorithms",
        "pubkeyauthentication", "rekeylimit", "serveralivecountmax", "serveraliveinterval",
        "tcpkeepalive", "user",
    )
)  # fmt: skip
_FLAGS = frozenset("46CTnqtvx")
_WITH_VALUE = frozenset("BbcIiJlmpS")
#: Who is asked, from which folder, by which command: never a site's to say.
_CONTROLLERS = frozenset(
    ("guard_ssh", "inventory_hostname", "inventory_dir", "playbook_dir", "enrol_accept",
     "enrol_replace")
)  # fmt: skip
_OWN_FOLDER = re.compile(r"\{\{ (?:inventory_dir|ansible_inventory_sources \| first) \}\}")
#: A file of the inventory's, or of this checkout's.
_PINNED = re.compile(r"(?i)(?!none$)(?:/inventory/)?[^/~%$][^%$]*")
_NOWHERE = frozenset(("/dev/null", "none"))


def only_ours(read: Reader, root: Node, ours: set[str]) -> None:
    """Refuse a misspelt variable of ours, and one of Ansible's that undoes the pinned keys."""
    if root.pairs is None:
        read.wrong(root.line, "", root.describe(), "a mapping of variables")
        return
    for name, (line, node) in root.pairs.items():
        if name.startswith("sekisho") and name not in ours:
            read.wrong(line, printable(name), "an unknown key", ", ".join(sorted(ours)) or "none")
        elif wanted := undoes_pinning(name, node.text):
            read.wrong(
                line, printable(name), node.describe(), wanted, "6-iv-a",
                "the machine that answers must be the one whose host key is pinned; for one run "
                "of your own: ansible-playbook -e",
            )  # fmt: skip


def undoes_pinning(name: str, text: str | None) -> str:
    """Return why a variable must not stand in an inventory, or "" when it may.

    ``text`` is its value, None when that is a list or a mapping. Beside the variables of Ansible's
    and Mitogen's connections only the few are looked at that choose what the controller runs.
    """
    if name in _CONTROLLERS:
        return "no such variable: it is the controller's own"
    if not name.startswith(("ansible_", "mitogen_")):
        return ""
    return "one value" if text is None else _connection(name, text)


def _connection(name: str, text: str) -> str:
    if name in _FREE:
        plain = _OWN_FOLDER.sub("", text)
        # The guard's own login gives it to ssh(1) as a word, which must not become an option.
        bad = "{{" in plain or "{%" in plain or plain.startswith("-")
        return "a plain value: no option, no expression but {{ inventory_dir }}" if bad else ""
    if name in _FIXED:
        right = _FIXED[name]
        return "" if text.casefold() in right else f"{right[0]}, or nothing"
    if name in _ARGUMENTS:
        return "; ".join(_arguments(text))
    return "no such variable: it may lead past the pinned host keys"


def _arguments(text: str) -> Iterator[str]:
    """Yield what is wrong with arguments for ssh(1)."""
    text = _OWN_FOLDER.sub("/inventory", text)
    if "{{" in text or "{%" in text:
        yield "no expression but {{ inventory_dir }}: what it gives cannot be judged here"
        return
    try:
        words = iter(shlex.split(text))
    except ValueError as bad:
        yield f"arguments in sound quotes ({bad})"
        return
    for word in words:
        flag, rest = word[:2], word[2:]
        if flag == "-o":
            yield from _option(rest or next(words, ""))
        elif flag == "-F":
            if (rest or next(words, "")) not in _NOWHERE:
                yield "no -F: another file of options"
        elif flag == "-S":
            yield from _option(f"ControlPath={rest or next(words, '')}")
        elif len(word) == 2 and flag[0] == "-" and flag[1] in _WITH_VALUE:
            next(words, "")
        elif not (word[:1] == "-" and word[1:] and set(word[1:]) <= _FLAGS) and not (
            flag[:1] == "-" and rest and flag[1] in _WITH_VALUE
        ):
            yield f"no {word}"


def _option(setting: str) -> Iterator[str]:
    name, _, value = setting.replace("=", " ", 1).strip().partition(" ")
    key, value = name.casefold(), value.strip().strip('"')
    if key == "stricthostkeychecking":
        if value.casefold() not in {"yes", "true"}:
            yield "StrictHostKeyChecking=yes"
    elif key in {"userknownhostsfile", "globalknownhostsfile"}:
        files = value.split()
        if key.startswith("global") and set(files) & _NOWHERE:
            files = []
        elif not files:
            files = ["none"]
        if not all(_PINNED.fullmatch(one) and ".." not in one for one in files):
            yield f"{name}={{{{ inventory_dir }}}}/keys/known_hosts, the site's pinned keys"
    elif key == "controlpath" and value not in _NOWHERE:
        yield "no -o ControlPath: a connection that somebody else may have opened"
    elif key not in _OPTIONS:
        yield f"no -o {name}"
