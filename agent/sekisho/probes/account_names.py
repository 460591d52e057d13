"""Names of accounts that say no person. Pure; no probe of its own."""

from __future__ import annotations

import re

#: Words of a name that say a function, a product or a group, not a person.
NOBODY_IN_PARTICULAR = frozenset(
    (
        *("admin", "administrator", "ansible", "anonymous", "backup", "cloud", "cloudsdk"),
        *("common", "debian", "default", "demo", "deploy", "ec2", "everybody", "everyone"),
        *("ftp", "generic", "git", "guest", "helpdesk", "jenkins", "kiosk", "maintenance"),
        *("maintainer", "manager", "mysql", "nobody", "oper", "operator", "ops", "oracle"),
        *("postgres", "public", "puppet", "root", "scanner", "server", "service", "share"),
        *("shared", "staff", "student", "support", "sysadmin", "sysop", "system", "team"),
        *("temp", "test", "tester", "tmp", "toor", "ubuntu", "user", "vagrant", "webmaster"),
        "www",
    )
)


def impersonal(name: str) -> bool:
    """Return whether an account's name says no person: one of its words is a function's."""
    return not NOBODY_IN_PARTICULAR.isdisjoint(re.split(r"[^a-z]+", name.lower()))
