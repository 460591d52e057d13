"""Every unit and drop-in of the tree: no limit that ends it for good when a stranger meets it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

#: A name (unit file, or drop-in of a unit) → its text.
SUFFIXES = (".service", ".socket", ".timer", ".path", ".conf")


def contents(value: Any) -> Iterator[tuple[str, str]]:
    """Yield path and text of every file that a task writes."""
    if isinstance(value, dict):
        if isinstance(value.get("content"), str) and isinstance(value.get("path"), str):
            yield value["path"], value["content"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from contents(one)


def units(repository: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return section → key → values of every unit file and drop-in."""
    texts: dict[str, str] = {}
    for path in sorted((repository / "hardening/systemd").iterdir()):
        texts[path.name] = path.read_text()
    for path in sorted((repository / "vagrant").rglob("*.service")):
        texts[str(path.relative_to(repository))] = path.read_text()
    for path in sorted((repository / "playbooks").rglob("*")):
        name = str(path.relative_to(repository))
        if path.suffix == ".j2":
            texts[name] = path.read_text()
        elif path.suffix == ".yml":
            for written, text in contents(yaml.safe_load(path.read_text())):
                if "systemd" in written and written.endswith(SUFFIXES):
                    texts[f"{name}: {written}"] = text
    found = {}
    for name, text in texts.items():
        if re.search(r"^\[(Service|Socket)\]$", text, re.MULTILINE):
            found[name] = sections(text)
    return found


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.split("\n"):
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif (match := re.fullmatch(r"(\w+)=(.*)", line)) and section:
            found.setdefault(section, {}).setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture(scope="module")
def every(repository: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    found = units(repository)
    assert len(found) > 15
    assert {"sekisho-probe.socket", "sekisho-agent.service", "60-sekisho-strongswan.conf"} <= set(
        found
    )
    assert any("prometheus.service.d" in name for name in found)
    return found


def test_no_socket_ends_for_good_when_somebody_connects_often(every: Any) -> None:
    sockets = {name: unit["Socket"] for name, unit in every.items() if "Socket" in unit}
    assert sockets
    for name, socket in sockets.items():
        assert socket.get("TriggerLimitIntervalSec") == ["0"], name
        assert "TriggerLimitBurst" not in socket, name
        assert int(socket["PollLimitBurst"][0]) > 0, name  # this one only pauses
        if socket.get("Accept") == ["yes"]:
            most, each = (
                int(socket[key][0]) for key in ("MaxConnections", "MaxConnectionsPerSource")
            )
            assert 1 <= each <= most // 4, name  # one takes a quarter at most


def test_no_service_that_is_started_again_stops_being_so(every: Any) -> None:
    seen = 0
    for name, unit in every.items():
        if unit.get("Service", {}).get("Restart", ["no"]) == ["no"]:
            continue
        seen += 1
        assert unit.get("Unit", {}).get("StartLimitIntervalSec") == ["0"], name
        assert unit["Service"].get("RestartSec"), name
    assert seen >= 6


def test_the_sockets_services_end_by_themselves(every: Any) -> None:
    for name, unit in every.items():
        if unit.get("Socket", {}).get("Accept") != ["yes"]:
            continue
        service = every[name.replace(".socket", "@.service")]["Service"]
        for key in ("RuntimeMaxSec", "MemoryMax", "TasksMax"):
            assert service.get(key), (name, key)


@pytest.mark.process
def test_systemd_itself_reads_the_units(repository: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    names = sorted((repository / "hardening/systemd").glob("sekisho-*.s*"))
    assert names
    done = subprocess.run(
        [tool, "verify", "--man=no", "--generators=no", *map(str, names)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [
        line
        for line in (done.stdout + done.stderr).split("\n")
        if "Unknown" in line or "Failed to parse" in line or "Invalid" in line
    ]
    # systemd of Debian 12, which runs no host, does not know these of Debian 13's.
    newer = ("PollLimit", "notify-reload")
    assert [line for line in said if not any(word in line for word in newer)] == []


def test_everything_that_listens_has_its_row(repository: Path) -> None:
    page = (repository / "docs/limits.md").read_text(encoding="utf-8")
    agent = repository / "agent"
    found = [
        str(path.relative_to(repository))
        for path in sorted(agent.rglob("*.py"))
        if ".listen(" in path.read_text(encoding="utf-8")
    ]
    found += [path.name for path in (repository / "hardening/systemd").glob("*.socket")]
    assert len(found) >= 4
    for name in found:
        assert f"`{name}`" in page, name
    for name in re.findall(r"`((?:tests|playbooks|agent)/[^`]+)`", page):
        assert (repository / name).exists(), name
