#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write many files in one module run: atomic, with check mode and diff."""

from __future__ import annotations

import base64
import errno
import grp
import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import sekisho_safe_files as safe

DOCUMENTATION = r"""
module: sekisho_files
short_description: Write, or remove, a list of files in one run
description:
  - Every file is compared first; only those that differ are written, each by a temporary file in
    the same directory, C(fsync) and rename. Directories above are made as C(0755) root.
  - A symbolic link in the place of a file is replaced, never followed.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {type: path, required: true, description: Absolute path.}
      content: {type: str, description: Text to hold; required when state is present.}
      base64: {type: bool, default: false, description: The content is given in base64.}
      mode: {type: str, default: "0644", description: Octal mode.}
      owner: {type: str, default: root, description: User name.}
      group: {type: str, default: root, description: Group name.}
      state: {type: str, choices: [present, absent, directory], default: present,
              description: What should be there.}
      secret: {type: bool, default: false, description: Keep the content out of the diff.}
"""


#: A file longer than this is none of ours: it differs, unread.
LONGEST = 64 * 1024 * 1024


def _current(path):
    try:
        with safe.beside(path) as (folder, name), folder.pin(name) as found:
            if not stat.S_ISREG(found.info.st_mode) or found.info.st_size > LONGEST:
                return found.info, None
            return found.info, found.read(LONGEST)
    except FileNotFoundError:
        return None, None
    except OSError as bad:
        if bad.errno == errno.ENOTDIR:
            return None, None
        raise


def _metadata(info):
    if info is None:
        return "absent"
    kind = "file" if stat.S_ISREG(info.st_mode) else "dir" if stat.S_ISDIR(info.st_mode) else "other"
    return "%s %04o %d:%d" % (kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)


def _put(path, state, data, mode, owner):
    with safe.beside(path, make=None if state == "absent" else 0o755) as (folder, name):
        if state == "absent":
            folder.unlink(name)
            folder.sync()
        elif state == "directory":
            with folder.make(name) as made:
                made.set_owner(*owner)
                made.set_mode(mode)
        else:
            folder.write(name, data, mode, owner)


def _ids(module, entry):
    try:
        return pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    except KeyError as missing:
        if module.check_mode:  # the run that makes the account has not happened yet
            return None, None
        module.fail_json(msg="%s: %s" % (entry["path"], missing))


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "base64": {"type": "bool", "default": False},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "state": {
                        "type": "str",
                        "choices": ["present", "absent", "directory"],
                        "default": "present",
                    },
                    "secret": {"type": "bool", "default": False},
                },
            }
        },
        supports_check_mode=True,
    )
    changed, diffs, seen = [], [], set()
    for entry in module.params["files"]:
        path = entry["path"]
        if not os.path.isabs(path) or path in seen:
            module.fail_json(msg="%s: not absolute, or named twice" % path)
        seen.add(path)
        if entry["state"] == "present" and entry["content"] is None:
            module.fail_json(msg="%s: no content given" % path)
    for entry in module.params["files"]:
        path, state = entry["path"], entry["state"]
        try:
            info, before = _current(path)
        except OSError as bad:
            module.fail_json(msg="%s: cannot be looked at: %s" % (path, bad))
        uid, gid = _ids(module, entry)
        mode = int(entry["mode"], 8)
        wanted = b"" if state != "present" else entry["content"].encode("utf-8", "surrogateescape")
        if entry["base64"]:
            wanted = base64.b64decode(wanted)
        if state == "absent":
            same = info is None
        elif state == "directory":
            same = info is not None and stat.S_ISDIR(info.st_mode)
        else:
            same = before == wanted
        if same and info is not None:
            same = stat.S_IMODE(info.st_mode) == mode and (info.st_uid, info.st_gid) == (uid, gid)
        if same:
            continue
        changed.append(path)
        hide = entry["secret"]
        diffs.append(
            {
                "before_header": "%s (%s)" % (path, _metadata(info)),
                "after_header": "%s (%s %s %s:%s)"
                % (path, state, entry["mode"], entry["owner"], entry["group"]),
                "before": "" if hide or before is None else before.decode("utf-8", "replace"),
                "after": "" if hide else wanted.decode("utf-8", "replace"),
            }
        )
        if module.check_mode:
            continue
        try:
            _put(path, state, wanted, mode, (uid, gid))
        except OSError as bad:
            module.fail_json(msg="%s: cannot be made %s: %s" % (path, state, bad))
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
