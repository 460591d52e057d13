"""The Debian packages: equal to the byte when built twice, whole, nothing started by them."""

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
    for name in ("agent", "hardening", "monitors"):
        shutil.copytree(
            repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / ".venv").symlink_to(repository / ".venv")
    return folder


def built(checkout: Path) -> dict[str, Path]:
    """Return the packages, by name."""
    lines = run(str(checkout / "agent/build-deb")).splitlines()
    return {Path(line).name.partition("_")[0]: checkout / line for line in lines}


@pytest.fixture(scope="module")
def packages(checkout: Path) -> dict[str, Path]:
    return built(checkout)


@pytest.fixture(scope="module")
def package(packages: dict[str, Path]) -> Path:
    return packages["sekisho-agent"]


def contents(package: Path) -> dict[str, str]:
    rows = [line.split() for line in run("dpkg-deb", "--contents", str(package)).splitlines()]
    assert all(row[1] == "root/root" for row in rows)
    return {row[5].removeprefix("."): row[0] for row in rows}


def test_built_again_they_are_the_same_files_to_the_byte(
    checkout: Path, packages: dict[str, Path]
) -> None:
    first = {name: path.read_bytes() for name, path in packages.items()}
    for path in packages.values():
        path.unlink()
    assert built(checkout) == packages
    assert {name: path.read_bytes() for name, path in packages.items()} == first


def test_each_package_holds_what_runs_there(packages: dict[str, Path]) -> None:
    held = {name: contents(path) for name, path in packages.items()}
    assert sorted(held) == ["python3-sekisho", "sekisho", "sekisho-agent", "sekisho-monitor"]
    for path in (
        "/usr/lib/sekisho/sekisho-agent",
        "/usr/lib/sekisho/guard",
        "/usr/lib/sekisho/usb-admit",
        "/usr/lib/sekisho/auditor-shell",
        "/usr/share/initramfs-tools/hooks/sekisho-disks",
        "/usr/share/initramfs-tools/scripts/init-top/a-sekisho-disks",
    ):
        assert held["sekisho-agent"][path] == "-rwxr-xr-x", path
    assert held["python3-sekisho"]["/usr/bin/sekisho"] == "-rwxr-xr-x"
    python = "/usr/lib/python3/dist-packages/sekisho"
    for name, path in (
        ("sekisho-agent", f"{python}/host/agent/main.py"),
        ("sekisho-agent", "/usr/lib/systemd/system/sekisho-agent.service"),
        ("python3-sekisho", f"{python}/core/errors.py"),
        ("sekisho", f"{python}/control/cli/audit.py"),
        ("sekisho", "/usr/share/sekisho/catalogue.json"),
        ("sekisho-monitor", "/usr/share/sekisho/runbooks/6-iii-c.device-refused.md"),
    ):
        assert held[name][path] == "-rw-r--r--", path
    everything = [path for one in held.values() for path in one if not path.endswith("/")]
    assert not [path for path in everything if "__pycache__" in path or path.startswith("/etc/")]
    own = [path for path in everything if "/doc/" not in path]
    assert len(own) == len(set(own)), "two packages hold one file"
    for one in held.values():
        assert not [path for path, mode in one.items() if "s" in mode or mode[8] == "w"]


def test_a_server_carries_no_authority_compiler_catalogue_or_prover(
    packages: dict[str, Path],
) -> None:
    there = {*contents(packages["python3-sekisho"]), *contents(packages["sekisho-agent"])}
    rooms = {
        path.split("/")[6]
        for path in there
        if path.startswith("/usr/lib/python3/") and path.count("/") > 6
    }
    assert {"core", "host", "probes"} <= rooms
    assert not rooms & {"control", "site", "compile", "prover", "catalogue", "evidence"}


def test_their_descriptions_say_what_they_need_and_fit_their_names(
    packages: dict[str, Path],
) -> None:
    for name, path in packages.items():
        fields = run("dpkg-deb", "--field", str(path))
        assert f"Package: {name}\n" in fields
        assert f"Version: {path.name.split('_')[1]}\n" in fields
        assert "${" not in fields
    fields = run("dpkg-deb", "--field", str(packages["sekisho-agent"]), "Depends")
    for needed in ("python3-nftables", "python3-sekisho (= "):
        assert needed in fields


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


def test_other_content_has_another_version_and_no_older_one_is_left(
    checkout: Path, packages: dict[str, Path]
) -> None:
    helper = checkout / "agent/helpers/sekisho-agent"
    before = helper.read_bytes()
    helper.write_bytes(before + b"# changed\n")
    other = built(checkout)
    helper.write_bytes(before)
    assert not {path.name for path in other.values()} & {path.name for path in packages.values()}
    assert sorted((checkout / "dist").glob("*.deb")) == sorted(other.values())
