"""Which files no probe returns the content of, and no copy takes out of a host: one list."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
import stat

from sekisho.core.safe_files import Folder, Pinned, kind_of

#: Patterns of real paths; ``*`` also stands for ``/``. Those whose folder has no ``*`` are known by
#: their inode as well, so that a second name of one is no way round. ``*.pub`` is never secret.
SECRETS = (
    "/etc/shadow*", "/etc/gshadow*", "/etc/security/opasswd*",
    "/etc/ssh/ssh_host_*_key", "*/.ssh/id_*",
    "/etc/sekisho/*.key.pem", "*/host.key.pem", "*.key.pem", "*-key.pem",
    "/etc/swanctl/private/*", "/etc/swanctl/ecdsa/*", "/etc/swanctl/rsa/*",
    "/etc/swanctl/pkcs8/*", "/etc/swanctl/pkcs12/*", "/etc/swanctl/bliss/*",
    "/etc/ipsec.secrets", "/etc/ipsec.d/private/*",
    "/etc/wireguard/*", "/etc/systemd/network/*.key", "/run/systemd/network/*.key",
    "/etc/credstore/*", "/etc/credstore.encrypted/*", "/run/credstore/*",
    "/run/credstore.encrypted/*", "/usr/lib/credstore/*", "/run/credentials/*",
    "/var/lib/systemd/credential.secret", "/var/lib/systemd/random-seed",
    "/etc/ssl/private/*", "/etc/chrony/chrony.keys", "/etc/chrony.keys", "*.keytab",
    "/etc/krb5.keytab", "/etc/ldap.secret", "/etc/pam_ldap.secret", "/etc/libnss-ldap.secret",
    "/etc/sudo-ldap.conf", "/etc/sssd/sssd.conf", "/etc/ppp/*-secrets",
    "/etc/NetworkManager/system-connections/*", "/etc/wpa_supplicant/*",
    "/etc/keys/*", "/etc/luks/*", "/etc/cryptsetup-keys.d/*",
    "/proc/kcore", "/proc/*/mem", "/proc/*/environ", "/boot/grub/user.cfg",
)  # fmt: skip
_NAMED = re.compile("|".join(fnmatch.translate(pattern) for pattern in SECRETS))


def secret_ids() -> set[tuple[int, int]]:
    """Return device and inode of the files of `SECRETS` that lie in folders known by name."""
    found = set()
    for pattern in SECRETS:
        if "*" in pattern.rpartition("/")[0]:
            continue
        for path in glob.glob(pattern, include_hidden=True):  # noqa: PTH207 - from the root
            with contextlib.suppress(OSError):
                info = os.stat(path)  # noqa: PTH116 - as above
                if stat.S_ISREG(info.st_mode) and not path.endswith(".pub"):
                    found.add((info.st_dev, info.st_ino))
    return found


def is_secret(found: Pinned, ids: set[tuple[int, int]]) -> bool:
    """Return whether a file is one of `SECRETS`, by its inode or its real path."""
    if (found.info.st_dev, found.info.st_ino) in ids:
        return True
    path = found.real_path()
    return not path.endswith(".pub") and _NAMED.fullmatch(path) is not None


def withheld(folder: Folder, found: Pinned, ids: set[tuple[int, int]]) -> str | None:
    """Return why the content of what was found in ``folder`` is given to nobody, or None.

    ``ids`` are `secret_ids`. In a folder that is not root's alone only a file that can be nobody
    else's counts: of one name, and its folder's owner's, or for everybody to read anyway.
    """
    info = found.info
    if not stat.S_ISREG(info.st_mode):
        return f"{kind_of(info)}, not a file"
    if is_secret(found, ids):
        return "its content is secret"
    if folder.alone:
        return None
    if info.st_nlink > 1:
        return "a file with several names, in a folder of others"
    if info.st_uid != folder.info.st_uid and not info.st_mode & 0o004:
        return "a file of another owner, in a folder of others"
    return None
