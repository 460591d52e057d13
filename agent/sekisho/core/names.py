"""The site's words that machines use too: how a name is written, what a person may do. Pure.

Apart from the site's model, so that what runs at a host's boot does not load the model and YAML.
"""

from __future__ import annotations

import enum
import re

NAME = re.compile(r"(?=.{1,63}\Z)[a-z][a-z0-9]*(-[a-z0-9]+){0,8}")
HOST_NAME = re.compile(r"(?=.{1,63}\Z)[a-z][a-z0-9]*(-[a-z0-9]+){0,8}")
IFNAME = re.compile(r"(?!lo\Z|all\Z|default\Z)[a-z][a-z0-9_.-]{0,14}")


class PersonRole(enum.StrEnum):
    """What a person may do; exactly one each."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    OFFICER = "officer"
    AUDITOR = "auditor"
