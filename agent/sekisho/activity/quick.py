"""The ordinary command at one glance: six whole records in a row, matched at once. Pure.

Nine of ten events are a program and its loader, written by auditd without a stranger in between.
Anything else (other order, interleaved, enriched, a script, hex in a name, a failure) does not
match and goes the long way; a test holds the two ways together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sekisho.activity.arguments import parse_argv
from sekisho.activity.events import Command, name_of
from sekisho.activity.records import text_of

_ID = rb"msg=audit\((([0-9]{1,11})\.([0-9]{3}):([0-9]{1,10}))\): "
_N = rb"([0-9]{1,10})"  # 32 bits; a longer one goes the long way
_SAME = rb" msg=audit\(\1\): "
#: Groups: id, seconds, milliseconds, serial, then what `command_at_once` reads.
ORDINARY = re.compile(
    rb"^type=SYSCALL " + _ID + rb"arch=c000003e syscall=(?:59|322) success=yes exit=0"
    rb" a0=[0-9a-f]+ a1=[0-9a-f]+ a2=[0-9a-f]+ a3=[0-9a-f]+ items=2"
    rb" ppid="
    + _N
    + rb" pid="
    + _N
    + rb" auid="
    + _N
    + rb" uid="
    + _N
    + rb" gid=[0-9]+ euid="
    + _N
    + rb" suid=[0-9]+ fsuid=[0-9]+ egid=[0-9]+ sgid=[0-9]+ fsgid=[0-9]+"
    rb' tty=([!-~]+) ses=([0-9]{1,10}) comm=[!-~]+ exe="([!-~]+)" [ -~]*\n'
    rb"type=EXECVE" + _SAME + rb"(argc=[ -~]*)\n"
    rb"type=CWD" + _SAME + rb'cwd="([!-~]*)"\n'
    rb"type=PATH" + _SAME + rb"item=0 name=[!-~]+ inode=[0-9]+ dev=[!-~]+ "
    rb"mode=(0[0-7]{1,11}) [ -~]*\n"
    rb"type=PATH" + _SAME + rb'item=1 name="/lib64/ld-linux-x86-64\.so\.2" [ -~]*\n'
    rb"type=PROCTITLE" + _SAME + rb"[ -~]*\n",
    re.MULTILINE,
)
RECORDS = 6


def command_at_once(groups: tuple[bytes, ...], when: int, people: Mapping[int, str]) -> Command:
    """Return the command of a match's groups; ``when`` in milliseconds since the epoch."""
    (id_, _, _, _, ppid, pid, auid, uid, euid, tty, session, exe, argv, cwd, mode) = groups
    person = int(auid)
    words, whole = parse_argv([argv])
    return Command(
        id_.decode("ascii"),
        when,
        people.get(person) or name_of(person, people),
        person,
        int(uid),
        int(euid),
        int(session),
        "" if tty == b"(none)" else text_of(b'"' + tty + b'"'),
        exe.decode("ascii"),
        words,
        cwd.decode("ascii"),
        True,
        64,
        None,
        bool(int(mode, 8) & 0o4000),
        int(pid),
        int(ppid),
        whole,
    )
