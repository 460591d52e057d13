#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write many files in one module run: atomic, with check mode and diff."""

from __future__ import annotations

import base64
import errno
import grp
import os
import pwd
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.basic import AnsibleModule

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
_MODE = re.compile(r"[0-7]{3,4}", re.ASCII)


def _current(path: str) -> tuple[os.stat_result | None, bytes | None]:
    """Return what is at a path, and a file's content."""
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


def _metadata(info: os.stat_result | None) -> str:
    if info is None:
        return "absent"
    kind = (
        "file" if stat.S_ISREG(info.st_mode) else "dir" if stat.S_ISDIR(info.st_mode) else "other"
    )
    return f"{kind} {stat.S_IMODE(info.st_mode):04o} {info.st_uid}:{info.st_gid}"


@dataclass(frozen=True)
class Wanted:
    """One file as it should be.

    Attributes:
        owner: uid and gid; None in check mode, when their names are not there yet.

    """

    path: str
    state: str
    data: bytes
    mode: int
    owner: tuple[int, int] | None
    secret: bool
    said: str

    def same(self, info: os.stat_result | None, held: bytes | None) -> bool:
        """Tell whether it is so already."""
        if self.state == "absent":
            return info is None
        if info is None or self.owner != (info.st_uid, info.st_gid):
            return False
        kind = stat.S_ISDIR(info.st_mode) if self.state == "directory" else held == self.data
        return kind and stat.S_IMODE(info.st_mode) == self.mode

    def put(self) -> None:
        """Make it so."""
        make = None if self.state == "absent" else 0o755
        with safe.beside(self.path, make=make) as (folder, name):
            if self.state == "absent":
                folder.unlink(name)
                folder.sync()
                return
            if self.owner is None:
                raise OSError(errno.EINVAL, "its owner or group is not there", self.path)
            if self.state == "directory":
                with folder.make(name) as made:
                    made.set_owner(*self.owner)
                    made.set_mode(self.mode)
            else:
                folder.write(name, self.data, self.mode, self.owner)

    def difference(self, info: os.stat_result | None, held: bytes | None) -> dict[str, str]:
        """Return the diff that Ansible shows."""
        hide = self.secret
        return {
            "before_header": f"{self.path} ({_metadata(info)})",
            "after_header": f"{self.path} ({self.said})",
            "before": "" if hide or held is None else held.decode("utf-8", "replace"),
            "after": "" if hide else self.data.decode("utf-8", "replace"),
        }


def wanted(entry: Mapping[str, Any], *, check: bool) -> Wanted:
    """Return a file of the list.

    Raises:
        ValueError: the entry is not what it must be.

    """
    path, state, content = entry["path"], entry["state"], entry["content"]
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r}: no absolute path")
    if state == "present" and content is None:
        raise ValueError(f"{path}: no content given")
    if not _MODE.fullmatch(entry["mode"]):
        raise ValueError(f'{path}: mode {entry["mode"]!r} is not octal, as "0644"')
    data = b"" if state != "present" else content.encode("utf-8", "surrogateescape")
    if entry["base64"]:
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except ValueError as bad:
            raise ValueError(f"{path}: the content is no base64: {bad}") from None
    said = f"{state} {entry['mode']} {entry['owner']}:{entry['group']}"
    owner = None
    try:
        owner = pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    except KeyError as missing:
        if not check:  # else: the run that makes the account has not happened yet
            raise ValueError(f"{path}: {missing}") from None
    return Wanted(path, state, data, int(entry["mode"], 8), owner, entry["secret"], said)


def main() -> None:
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
    try:  # all of them before the first is written
        files = [wanted(entry, check=module.check_mode) for entry in module.params["files"]]
    except ValueError as bad:
        module.fail_json(msg=str(bad))
    twice = [path for path, count in Counter(one.path for one in files).items() if count > 1]
    if twice:
        module.fail_json(msg=f"{', '.join(twice)}: named twice")
    changed, diffs = [], []
    for one in files:
        try:
            info, held = _current(one.path)
            if one.same(info, held):
                continue
            changed.append(one.path)
            diffs.append(one.difference(info, held))
            if not module.check_mode:
                one.put()
        except OSError as bad:
            module.fail_json(msg=f"{one.path}: cannot be made {one.state}: {bad}", paths=changed)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
