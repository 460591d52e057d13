"""The site's words that machines use too: how a name is written, what people and machines do. Pure.

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


class Role(enum.StrEnum):
    """What a machine is for; one Ansible group each (`site.model.GROUPS`)."""

    INBOUND = "inbound"
    CORE = "core"
    OUTBOUND = "outbound"
    GATEWAY = "gateway"
    MONITOR = "monitor"
    TERMINAL = "terminal"


class Purpose(enum.StrEnum):
    """What a link or an interface is for."""

    DATA = "data"
    TERMINAL = "terminal"
    MANAGEMENT = "management"


class Mode(enum.StrEnum):
    """How a hop is kept one-way: replies without payload, or no reverse packet at all."""

    ONE_WAY_TCP = "one-way-tcp"
    DIODE = "diode"


class Console(enum.StrEnum):
    """How the owner gets in when the network is shut."""

    LISTED_KEYBOARD = "listed-keyboard"
    SERIAL = "serial"
    OUT_OF_BAND = "out-of-band"
