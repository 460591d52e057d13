"""The keys of the inventory's mappings, and whether each is required; and a default. Pure."""

from __future__ import annotations

from sekisho.site.model import Encryption, Kind

SITE = {
    "name": True,
    "title": True,
    "profile": True,
    "management": True,
    "links": True,
    "peers": True,
    "flows": True,
    "people": True,
}
MANAGEMENT = {"network": True, "controllers": True, "auditors": True}
LINK = {"kind": True, "purpose": False, "network": True, "between": True, "encryption": False}
PEER = {"side": True, "title": True, "address": True, "router": False, "vpn": False}
#: What a link is taken to be encrypted by when the site does not say.
ENCRYPTION = {Kind.IP_VPN: Encryption.CARRIER, Kind.DEDICATED: Encryption.NONE}
FLOW = {"from": True, "to": True, "via": False, "port": True, "mode": True}
PERSON = {
    "name": True,
    "role": True,
    "uid": True,
    "keys": True,
    "authority_until": True,
    "trained": True,
}
MACHINE = {"title": True, "identity": True, "console": True, "devices": True, "interfaces": True}
IDENTITY = {"dmi_uuid": True, "serial": True}
INTERFACE = {"link": True, "mac": True, "address": True}
DEVICE = {
    "name": True,
    "vendor": True,
    "product": True,
    "serial": False,  # one of these two
    "serial_hash": False,
    "port": True,
    "interfaces": True,
    "count": False,
}
