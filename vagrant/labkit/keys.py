"""The keys of the lab's people: made once, kept in the state directory, seen from the inventory."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from labkit.base import INVENTORY, KEYS, Site, run, write_atomic


def ensure_keys(site: Site) -> Path:
    """Make what is missing of every person's key pairs and copy all to ``inventory/lab/keys``.

    A pair for SSH, a P-384 pair for orders. Also the administrator's password for the console. Returns the directory beside the inventory.
    """
    KEYS.mkdir(parents=True, exist_ok=True)
    KEYS.chmod(0o700)
    for person in site.people:
        if not (KEYS / f"{person}.pub").exists():
            (KEYS / person).unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person, "-f", KEYS / person])
        approval = KEYS / f"{person}-approval.key"
        if not approval.exists():
            # Made beside and renamed: a key that is cut short is no key.
            fresh = KEYS / f".{approval.name}"
            run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384",
                 "-out", fresh])  # fmt: skip
            fresh.chmod(0o600)
            fresh.rename(approval)
            (KEYS / f"{person}-approval.pub").unlink(missing_ok=True)
        if not (KEYS / f"{person}-approval.pub").exists():
            run(["openssl", "pkey", "-in", approval, "-pubout", "-out",
                 KEYS / f"{person}-approval.pub"])  # fmt: skip
    password = KEYS / f"{site.admin}.password"
    if not password.exists():
        write_atomic(password, secrets.token_hex(8) + "\n", 0o600)
    beside = INVENTORY / "keys"
    beside.mkdir(exist_ok=True)
    for source in sorted(KEYS.iterdir()):
        target = beside / source.name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            temporary = beside / f".{source.name}.{os.getpid()}"
            shutil.copyfile(source, temporary)
            temporary.chmod(0o644 if source.suffix == ".pub" else 0o600)
            temporary.rename(target)
    return beside
