"""The kernel's nftables table `inet sekisho`: read it, load it, hear of changes.

Everything goes through libnftables in this process (Debian's python3-nftables) in JSON. The kernel
rewrites what it is given (a set of one becomes a value), so a read-back is only ever compared with
a read-back: `expected` loads the wanted rules into a dormant twin, which no packet ever meets, and
reads that.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.host.debian_python import load

FAMILY, TABLE = "inet", "sekisho"
TWIN = "sekisho_twin"
#: The dead-man guard's, until a first load is in force (`sekisho.host.guard.guard`).
UNTRACKED = "sekisho_untracked"
MAX_READ = 64 * 1024 * 1024  # characters of JSON

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7


def _failure(what: str, said: str) -> SekishoError:
    return SekishoError(
        what,
        (Problem("nftables", f"{FAMILY} {TABLE}", printable(said, 300), "no error", "6-iv-d-2"),),
    )


def _objects(rules: Any) -> list[dict[str, Any]]:
    if not isinstance(rules, Mapping) or not isinstance(rules.get("nftables"), list):
        raise _failure("the rules are not libnftables JSON", printable(rules))
    found = [entry for entry in rules["nftables"] if isinstance(entry, dict)]
    if len(found) != len(rules["nftables"]):
        raise _failure("the rules are not libnftables JSON", "an entry that is no object")
    return found


def _parsed(out: str) -> Any:
    if len(out) > MAX_READ:
        raise _failure("nftables answered too much", f"{len(out)} characters")
    try:
        return json.loads(out) if out else {"nftables": []}
    except ValueError:
        raise _failure("nftables' answer is garbled", out) from None


def own_objects(rules: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (type, object) of every object the rules add to our own table, in their order.

    Commands other than ``add``/``create``, and ``add`` of other tables' objects, are refused: the
    policy describes one table and touches nothing else. ``delete``/``flush``/``destroy`` of our own
    table, which make a load atomic, are passed over: `Nft.load` writes its own.
    """
    for entry in _objects(rules):
        if "metainfo" in entry:
            continue
        verb, inner = next(iter(entry.items()))
        if verb in ("delete", "destroy", "flush"):
            kind = next(iter(inner), "")
            if kind != "table":
                raise _failure("the rules are refused", f"{verb} {kind}")
            named = inner[kind]
        else:
            body = inner if verb in ("add", "create") else entry
            kind = next(iter(body), "")
            named = body.get(kind)
        if not isinstance(named, dict):
            raise _failure("the rules are refused", printable(entry))
        table = named.get("name") if kind == "table" else named.get("table")
        if (named.get("family"), table) != (FAMILY, TABLE):
            raise _failure("the rules are refused: not our own table", printable(entry))
        if verb not in ("delete", "destroy", "flush"):
            yield kind, named


class Nft:
    """Our own table in this network namespace."""

    def __init__(self) -> None:
        self._module = load("nftables", "python3-nftables")

    def _command(self, commands: list[dict[str, Any]]) -> Any:
        return self._run(json.dumps({"nftables": commands}))

    def _ask(self, text: str) -> tuple[int, str, str]:
        # A fresh context per command: libnftables keeps a cache that would grow with us.
        nft = self._module.Nftables()
        nft.set_json_output(True)
        nft.set_handle_output(False)
        code, out, err = nft.cmd(text)
        return int(code), str(out), str(err)

    def _run(self, text: str) -> Any:
        code, out, err = self._ask(text)
        if code != 0:
            raise _failure("nftables refused a command", err or f"exit status {code}")
        return _parsed(out)

    def _tables(self) -> set[str]:
        listed = self._run("list tables")
        return {
            entry["table"]["name"]
            for entry in _objects(listed)
            if "table" in entry and entry["table"].get("family") == FAMILY
        }

    def read(self, table: str = TABLE) -> list[dict[str, Any]] | None:
        """Return the table's objects as the kernel has them; None when there is no such table."""
        code, out, err = self._ask(f"list table {FAMILY} {table}")
        if code != 0:
            if table in self._tables():  # there, and yet it cannot be listed
                raise _failure("the loaded rules cannot be read", err or f"exit status {code}")
            return None
        return [entry for entry in _objects(_parsed(out)) if "metainfo" not in entry]

    def ruleset(self) -> list[dict[str, Any]]:
        """Return the objects of every table there is."""
        return [entry for entry in _objects(self._run("list ruleset")) if "metainfo" not in entry]

    def foreign(self) -> list[tuple[str, str]]:
        """Return (family, name) of tables that have no business here.

        A name is no pass: our own twin is gone before anybody looks, and what the guard needs for a
        first load has no use once our own table is loaded.
        """
        listed = [e["table"] for e in _objects(self._run("list tables")) if "table" in e]
        found = {(str(one["family"]), str(one["name"])) for one in listed}
        own = (FAMILY, TABLE)
        return sorted(found - {own if own in found else (FAMILY, UNTRACKED)})

    def remove(self, family: str, name: str) -> None:
        """Take one whole table away."""
        self._command([{"delete": {"table": {"family": family, "name": name}}}])

    def apply(self, commands: Any) -> None:
        """Run commands on our own table as they are, in one transaction."""
        self._command(_objects(commands))

    def load(self, rules: Any) -> None:
        """Replace our own table by ``rules`` in one transaction; nothing changes on an error."""
        wanted = list(own_objects(rules))
        if not any(kind == "rule" for kind, _ in wanted):
            raise _failure("the rules are refused", "no rule at all")
        table = {"table": {"family": FAMILY, "name": TABLE}}
        self._command(
            # add before delete: deleting a table that is not there is an error.
            [{"add": table}, {"delete": table}, {"add": table}]
            + [{"add": {kind: named}} for kind, named in wanted if kind != "table"]
        )

    def expected(self, rules: Any) -> list[dict[str, Any]]:
        """Return ``rules`` as the kernel would read them back, without putting them in force."""
        wanted = [(kind, named) for kind, named in own_objects(rules) if kind != "table"]
        twin = {"table": {"family": FAMILY, "name": TWIN}}
        # Text, not JSON: nftables 1.0 takes no table flags in JSON.
        self._run(
            f"add table {FAMILY} {TWIN}; delete table {FAMILY} {TWIN}; "
            f"add table {FAMILY} {TWIN} {{ flags dormant; }}"
        )
        try:
            self._command([{"add": {kind: {**named, "table": TWIN}}} for kind, named in wanted])
            found = self.read(TWIN)
        finally:
            self._command([{"delete": twin}])
        if found is None:
            raise _failure("the rules could not be read back", "no twin table")
        return [_renamed(entry) for entry in found]


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    kind, named = next(iter(entry.items()))
    if kind == "table":
        plain = {key: value for key, value in named.items() if key != "flags"}
        return {kind: {**plain, "name": TABLE}}
    return {kind: {**named, "table": TABLE}}


class NftChanges:
    """Hears the kernel say that some ruleset changed, whoever changed it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_NETFILTER,
        )
        self._socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> int:
        """Throw away what was said and return how many messages; an overflow counts as one."""
        count = 0
        while count < 1000:
            try:
                if not os.read(self._socket.fileno(), 65536):
                    break
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: more was said than fits; it changed, that is all we need
                count += 1
                continue
            count += 1
        return count

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
