"""Verbs of the dead-man's guard.

plan, apply, confirm TOKEN, rollback [TOKEN], boot, status, restore-previous. Requests are JSON on
standard input.

`/usr/lib/sekisho/guard` is this module; the playbooks call it through the module `sekisho_guard`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sekisho.host.guard.guard import Guard
from sekisho.host.guard.request import TOKEN, GuardError, parse_terms, parse_wanted


def main(argv: list[str]) -> int:
    """Run one verb and print its answer as one line of JSON."""
    guard = Guard()
    verb, token = [*argv, "", ""][:2]
    try:
        answer: dict[str, Any]
        if verb in ("plan", "apply", "restore-previous"):
            request = json.load(sys.stdin)
            terms = parse_terms(request)
            if verb == "restore-previous":
                answer = guard.apply(guard.previous(), terms.timeout_s, token=terms.token)
            elif verb == "apply":
                answer = guard.apply(
                    parse_wanted(request["files"]), terms.timeout_s, token=terms.token
                )
            else:
                diff = guard.plan(parse_wanted(request["files"]))
                answer = {"changed": bool(diff), "diff": diff}
        elif verb == "confirm" and TOKEN.fullmatch(token):
            answer = guard.confirm(token)
        elif verb == "rollback" and (not token or TOKEN.fullmatch(token)):
            answer = guard.rollback(token or None)
        elif verb == "boot":
            answer = guard.rollback(live=False)
        elif verb == "status":
            answer = guard.status()
        else:
            sys.stderr.write(__doc__)
            return 3
    except (GuardError, OSError, ValueError, KeyError, TypeError) as bad:
        facts = bad.facts if isinstance(bad, GuardError) else {}
        sys.stdout.write(json.dumps({"error": str(bad), **facts}) + "\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
