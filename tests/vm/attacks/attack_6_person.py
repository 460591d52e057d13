"""Attack 6: an administrator works by SSH and on the console; the journal names him. Item 6(iv)(b)."""

from __future__ import annotations

import shlex
from typing import Any

from tests.vm.trial import INVENTORY, Lab, Trial, until

TITLE = "Every command has a person behind it, and the journal cannot be rewritten"
HOST, PERSON = "gate-in", "aoki"


def _argv(records: list[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    return [r["data"] for r in records if word in shlex.join(map(str, r["data"].get("argv", [])))]


def _last(lab: Lab) -> int:
    """Return the number of the last command that names the person."""
    records = lab.journal(HOST, "activity.command")
    return next(r["n"] for r in reversed(records) if r["data"].get("who") == PERSON)


def run(lab: Lab, trial: Trial) -> None:
    """Work by SSH, as root, by script and on the console; then rewrite the journal."""
    trial.step("by SSH: a command, a script, and root")
    lab.put(HOST, "/tmp/trial-script.sh", "#!/bin/sh\n/bin/echo mark-in-script\n")
    lab.user(HOST, "/bin/echo mark-by-ssh; sh /tmp/trial-script.sh; sudo -n /bin/echo mark-as-root")
    trial.step("on the serial console")
    secret = (INVENTORY / f"keys/{PERSON}.password").read_text(encoding="utf-8").strip()
    said = lab.console_login(HOST, PERSON, secret, "/bin/echo mark-on-console")
    trial.expect("the console lets the administrator in", "mark-on-console" in said, said[-200:])
    marks = ("mark-by-ssh", "mark-in-script", "mark-as-root", "mark-on-console")
    found: dict[str, list[dict[str, Any]]] = {}

    def all_there() -> bool:
        records = lab.journal(HOST, "activity.command")
        found.update({mark: _argv(records, mark) for mark in marks})
        return all(found[mark] for mark in marks)

    until(all_there, timeout=60, every=3)
    for mark in marks:
        rows = [row for row in found[mark] if row.get("who") == PERSON]
        trial.expect(f"{mark}: the journal names {PERSON}", rows,
                     rows and {k: rows[0].get(k) for k in ("who", "session", "terminal", "uid")})  # fmt: skip
    rows = [row for row in found["mark-as-root"] if str(row.get("euid")) == "0"]
    trial.expect(
        "the command run as root still names the person", rows and rows[0]["who"] == PERSON
    )
    ttys = {str(row.get("terminal")) for row in found["mark-on-console"]}
    trial.expect(
        "the console command names the console's line", any("ttyS0" in t for t in ttys), ttys
    )

    trial.step("edit one record of a copy of the journal, then verify it")
    target = _last(lab)
    lab.root(HOST, "rm -rf /run/copy; cp -r /var/lib/sekisho/journal /run/copy; "
             "openssl pkey -in /etc/sekisho/host.key.pem -pubout -out /run/host.pub 2>/dev/null")  # fmt: skip
    lab.root(HOST, f'sed -i \'/"n":{target},/s/"who":"{PERSON}"/"who":"baba"/\' /run/copy/*.jsonl')
    verified = lab.root(
        HOST, "sekisho verify /run/copy --key /run/host.pub --head /run/copy/head.json"
    )
    trial.expect("the edit is found", verified.code == 1, verified.code)
    trial.expect("and located", str(target) in verified.out, verified.out[-300:])
    trial.step("cut the last records off, then verify with and without the head kept elsewhere")
    lab.root(HOST, "rm -rf /run/copy; cp -r /var/lib/sekisho/journal /run/copy")
    cut = (
        "import glob,json,pathlib\n"
        "n=json.load(open('/run/copy/head.json'))['n']-10\n"
        "for f in map(pathlib.Path,glob.glob('/run/copy/*.jsonl')):\n"
        "  rows=f.read_text().splitlines(True)\n"
        "  f.write_text(''.join(r for r in rows if json.loads(r)['n']<=n))\n"
    )
    done = lab.root(HOST, "python3 -", stdin=cut)
    trial.expect("the end is cut off", done.code == 0, done.err[-200:])
    with_head = lab.root(
        HOST,
        "sekisho verify /run/copy --key /run/host.pub --head /var/lib/sekisho/journal/head.json",
    )
    trial.expect(
        "with the head kept elsewhere the cut is found", with_head.code == 1, with_head.out[-200:]
    )
    without = lab.root(
        HOST, "rm -f /run/copy/head.json; sekisho verify /run/copy --key /run/host.pub"
    )
    trial.expect(
        "without one it says that completeness is not shown", without.code == 2, without.out[-200:]
    )
    lab.root(HOST, "rm -rf /run/copy /run/host.pub /tmp/trial-script.sh")
