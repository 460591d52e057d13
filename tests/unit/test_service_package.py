"""The Debian package: equal to the byte when built twice, whole, and with nothing that runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.process


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a copy of what the package is made of, so that nothing is built in the checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("agent", "hardening"):
        shutil.copytree(
            repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / ".venv").symlink_to(repository / ".venv")
    return folder


@pytest.fixture(scope="module")
def package(checkout: Path) -> Path:
    return checkout / run(str(checkout / "agent/build-deb")).strip()


def test_built_again_it_is_the_same_file_to_the_byte(checkout: Path, package: Path) -> None:
    first = package.read_bytes()
    package.unlink()
    assert checkout / run(str(checkout / "agent/build-deb")).strip() == package
    assert package.read_bytes() == first


def test_other_content_has_another_version_and_one_package_is_left(
    checkout: Path, package: Path
) -> None:
    helper = checkout / "agent/helpers/sekisho-agent"
    before = helper.read_bytes()
    helper.write_bytes(before + b"# changed\n")
    other = checkout / run(str(checkout / "agent/build-deb")).strip()
    helper.write_bytes(before)
    assert other != package
    assert [path.name for path in (checkout / "dist").iterdir()] == [other.name]
    run(str(checkout / "agent/build-deb"))


def test_it_holds_the_program_its_helpers_units_and_the_catalogue(package: Path) -> None:
    rows = [line.split() for line in run("dpkg-deb", "--contents", str(package)).splitlines()]
    held = {row[5].removeprefix("."): row[0] for row in rows}
    assert all(row[1] == "root/root" for row in rows)
    for path in (
        "/usr/bin/sekisho",
        "/usr/lib/sekisho/sekisho-agent",
        "/usr/lib/sekisho/guard",
        "/usr/lib/sekisho/usb-admit",
        "/usr/lib/sekisho/auditor-shell",
    ):
        assert held[path] == "-rwxr-xr-x", path
    for path in (
        "/usr/lib/python3/dist-packages/sekisho/host/agent/main.py",
        "/usr/lib/systemd/system/sekisho-agent.service",
        "/usr/share/sekisho/catalogue.json",
    ):
        assert held[path] == "-rw-r--r--", path
    assert not [path for path in held if "__pycache__" in path or path.startswith("/etc/")]
    assert not [path for path, mode in held.items() if "s" in mode or mode[8] == "w"]


def test_its_description_says_what_it_needs_and_fits_its_name(package: Path) -> None:
    fields = run("dpkg-deb", "--field", str(package))
    assert f"Version: {package.name.split('_')[1]}\n" in fields
    for needed in ("python3-nftables", "python3-pyudev", "python3-cryptography"):
        assert needed in fields
    assert "@" not in fields.replace("@sekisho.invalid", "")


def test_its_scripts_make_users_and_folders_and_start_nothing(package: Path) -> None:
    folder = package.parent / "control"
    run("dpkg-deb", "--control", str(package), str(folder))
    for name in ("postinst", "prerm", "postrm"):
        script = (folder / name).read_text()
        assert script.startswith("#!/bin/sh\n")
        assert "set -e" in script
        subprocess.run(["sh", "-n", str(folder / name)], check=True)
    made = (folder / "postinst").read_text()
    enabled = [
        word
        for line in made.splitlines()
        if "systemctl --root=/ enable" in line
        for word in line.split()
        if word.endswith(".service")
    ]
    # The way back after a power cut, and the end of an exception, wait for no playbook.
    assert enabled == ["sekisho-guard-boot.service", "sekisho-exception-due.service"]
    for verb in ("start", "restart", "--now"):
        assert f"systemctl {verb}" not in made
    assert "/var/lib/sekisho" not in (folder / "postrm").read_text()


def test_the_units_sandbox_names_what_the_agent_needs_and_no_more(repository: Path) -> None:
    unit = (repository / "hardening/systemd/sekisho-agent.service").read_text()
    lines = [line for line in unit.splitlines() if not line.startswith("#")]
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_AUDIT_CONTROL" in lines
    assert [line for line in lines if line.startswith("ReadWritePaths=")] == [
        "ReadWritePaths=/var/lib/sekisho"
    ]
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "IPAddressDeny=any"):
        assert line in lines
