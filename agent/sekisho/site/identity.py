"""What a manufacturer writes where a machine's own number should be. Pure.

DMI fields of real machines hold such fillers (seen in dmidecode reports of many makers): equal on
every machine of a batch, so they identify none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sekisho.core.yaml_nodes import Node, Reader

#: Text that stands for "nobody filled this in", in small letters, without blanks and punctuation.
_FILLERS = (
    "tobefilledbyoem", "tobefilled", "defaultstring", "notspecified", "notapplicable",
    "notavailable", "notprovided", "systemserialnumber", "serialnumber", "chassisserialnumber",
    "baseboardserialnumber", "oem", "none", "null", "na", "unknown", "invalid", "empty", "default",
    "unspecified", "noasset", "assettag", "dummy", "test", "sernum", "sn", "tbd", "standard",
    "0123456789", "1234567890", "123456789", "12345678", "1234567", "123456", "12345", "01234567",
    "0123456789ab", "0123456789abcdef", "xxxxxxxxxx", "invalidserial", "nosn", "noserial",
)  # fmt: skip
_FILLER = frozenset(_FILLERS)
#: UUIDs of boards whose maker left the reference firmware's own, in both byte orders of SMBIOS.
_UUIDS = frozenset(
    (
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "78563412-3412-7856-90ab-cddeefaabbcc",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
        "00112233-4455-6677-8899-aabbccddeeff",
        "33221100-5544-7766-8899-aabbccddeeff",
        "01234567-89ab-cdef-0123-456789abcdef",
        "deadbeef-dead-beef-dead-beefdeadbeef",
    )
)


def is_filler(serial: str) -> bool:
    """Return whether a serial number is a maker's filler, or one character over and over."""
    bare = re.sub(r"[^a-z0-9]", "", serial.casefold())
    return len(set(bare)) <= 1 or bare in _FILLER or "tobefilled" in bare


def is_filler_uuid(uuid: str) -> bool:
    """Return whether a UUID is the empty one, all ones, or one known to be shared."""
    bare = uuid.casefold()
    return bare in _UUIDS or len(set(bare.replace("-", ""))) <= 2


def refuse_fillers(read: Reader, identity: Mapping[str, Node]) -> None:
    """Refuse what makers leave in every machine of a batch: it tells no two of them apart."""
    for key, filler in (("dmi_uuid", is_filler_uuid), ("serial", is_filler)):
        node = identity.get(key)
        if node is not None and node.text and filler(node.text):
            read.wrong(
                node.line, f"identity.{key}", f"{node.describe()}, a filler of the maker's",
                "the machine's own", "6-iii-a",
                "dmidecode -s system-serial-number, baseboard-serial-number or the label on the "
                "case; a maker's tool can set it",
            )  # fmt: skip
