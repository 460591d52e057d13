#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""On the controller: certify a host's key and keep its public half."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: sekisho_enrolled
short_description: Certify a host's key with the site's authority and keep its public half
description:
  - Runs on the controller. The kept certificate is used while it fits the host's key, the site's
    authority and the time; otherwise C(sekisho site enroll) makes a new one.
  - The request came over SSH from a machine whose host key is pinned. A machine that was set up
    anew has a new key; the old public key stays as C(HOST.FINGERPRINT.pub.pem), so that journals
    sealed with it can still be verified.
options:
  inventory:
    description: The inventory's directory.
    type: path
    required: true
  folder:
    description: Where public keys and certificates are kept.
    type: path
    required: true
  host:
    description: The host's name.
    type: str
    required: true
  request:
    description: What C(sekisho agent enroll) printed.
    type: dict
    required: true
  renew_days:
    description: Days before its end at which a certificate is renewed.
    type: int
    default: 60
"""


def _read(path):
    try:
        with open(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def _write(path, text):
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".sekisho-", dir=os.path.dirname(path))
    with os.fdopen(handle, "w") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _fits(certificate, authority, public_key, days):
    """Tell whether a kept certificate is for this key, by this authority, and lasts."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        held = x509.load_pem_x509_certificate(certificate.encode())
        issuer = x509.load_pem_x509_certificate(authority.encode())
        held.verify_directly_issued_by(issuer)
        key = load_pem_public_key(public_key.encode())
    except Exception:  # whatever is wrong with the kept one, a new one is right
        return False
    left = held.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return held.public_key() == key and left > datetime.timedelta(days=days)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "inventory": {"type": "path", "required": True},
            "folder": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "request": {"type": "dict", "required": True},
            "renew_days": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = module.params
    request = given["request"]
    for key in ("csr", "journal_public_key", "fingerprint"):
        if not isinstance(request.get(key), str):
            module.fail_json(msg="%s: the host's request has no %s" % (given["host"], key))
    base = os.path.join(given["folder"], given["host"])
    certificate, public_key = _read(base + ".crt.pem"), _read(base + ".pub.pem")
    authority = _read(os.path.join(given["inventory"], "pki", "ca.crt.pem"))
    changed = []
    if public_key != request["journal_public_key"]:
        changed.append(base + ".pub.pem")
    if not _fits(certificate, authority, request["journal_public_key"], given["renew_days"]):
        changed.append(base + ".crt.pem")
    if module.check_mode or not changed:
        module.exit_json(changed=bool(changed), paths=changed, certificate=certificate)
    if base + ".crt.pem" in changed:
        command = [os.path.join(os.path.dirname(sys.executable), "sekisho"), "site", "enroll"]
        done = subprocess.run(
            [*command, given["inventory"], given["host"]],
            input=request["csr"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            module.fail_json(msg="%s: not certified: %s" % (given["host"], done.stderr.strip()))
        certificate = done.stdout
        _write(base + ".crt.pem", certificate)
    if base + ".pub.pem" in changed:
        _write("%s.%s.pub.pem" % (base, request["fingerprint"][:16]), request["journal_public_key"])
        _write(base + ".pub.pem", request["journal_public_key"])
    module.exit_json(changed=True, paths=changed, certificate=certificate)


if __name__ == "__main__":
    main()
