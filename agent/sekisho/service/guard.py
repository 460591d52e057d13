"""Verbs of the dead-man's guard.

plan, apply, confirm TOKEN, rollback [TOKEN], boot, status, restore-previous. Requests are JSON on
standard input.

`/usr/lib/sekisho/guard` is this module; the playbooks call it through the module `sekisho_guard`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sekisho.edge.guard import TIMEOUT_S, TOKEN, Guard
from sekisho.edge.guard_request import GuardError, parse_wanted


def main(argv: list[str]) -> int:
    """Run one verb and print its answer as one line of JSON."""
    guard = Guard()
    verb, token = [*argv, "", ""][:2]
    try:
        answer: dict[str, Any]
        if verb in ("plan", "apply"):
            request = json.load(sys.stdin)
            wanted = parse_wanted(request["files"])
            if verb == "plan":
                diff = guard.plan(wanted)
                answer = {"changed": bool(diff), "diff": diff}
            else:
                answer = guard.apply(wanted, int(request.get("timeout_s", TIMEOUT_S)))
        elif verb == "confirm" and TOKEN.fullmatch(token):
            answer = guard.confirm(token)
        elif verb == "rollback" and (not token or TOKEN.fullmatch(token)):
            answer = guard.rollback(token or None)
        elif verb == "restore-previous":
            answer = guard.apply(guard.previous())
        elif verb == "boot":
            answer = guard.rollback(live=False)
        elif verb == "status":
            answer = {"pending": guard.pending.exists()}
        else:
            sys.stderr.write(__doc__)
            return 3
    except (GuardError, OSError, ValueError, KeyError, TypeError) as bad:
        sys.stdout.write(json.dumps({"error": str(bad)}) + "\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
