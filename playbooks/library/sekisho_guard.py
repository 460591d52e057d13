#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Put in force what can cut off the administrator, under the host's dead-man guard."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: sekisho_guard
short_description: Dry-run, keep, arm the roll-back timer, apply; confirm by a fresh login
description:
  - Hands the guarded files to C(/usr/lib/sekisho/guard) on the host. In check mode it only
    compares. When something changed, the action of the same name, which runs this module, logs in
    to the host anew from the controller and confirms, before it goes on.
options:
  files:
    description: Guarded files (path, content or none, mode, kind nftables|sshd|usb).
    type: list
    elements: dict
  restore_previous:
    description: Go back to the state before the last confirmed change instead.
    type: bool
    default: false
  timeout_s:
    description: Seconds until the host frees itself.
    type: int
    default: 50
  token:
    description: What confirms this change, 16 hex digits; the action sets it.
    type: str
    default: ""
  login:
    description: Command line of a fresh login to the host, for the action on the controller.
    type: list
    elements: str
    default: []
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": []},
            "restore_previous": {"type": "bool", "default": False},
            "timeout_s": {"type": "int", "default": 50},
            "token": {"type": "str", "default": "", "no_log": False},
            "login": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    verb = "plan" if module.check_mode else "apply"
    if module.params["restore_previous"]:
        if module.check_mode:
            module.exit_json(changed=True, msg="would go back to the state held on the host")
        verb = "restore-previous"
    request = {key: module.params[key] for key in ("files", "timeout_s", "token")}
    code, out, err = module.run_command(["/usr/lib/sekisho/guard", verb], data=json.dumps(request))
    try:
        answer = json.loads(out)
    except ValueError:
        module.fail_json(msg=f"the guard gave no answer (status {code}): {err or out}")
    if code != 0 or "error" in answer:
        module.fail_json(msg="the guard refused: {}".format(answer.get("error", err)))
    diff = [
        {
            "before_header": entry["path"],
            "after_header": entry["path"],
            "before": entry["before"],
            "after": entry["after"],
        }
        for entry in answer.get("diff", [])
    ]
    told = {key: answer[key] for key in ("token", "took_s", "left_s") if key in answer}
    module.exit_json(changed=answer["changed"], diff=diff, **told)


if __name__ == "__main__":
    main()
