"""A host's answer is proven on the controller; nothing it sends becomes a path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.control.inventory.enrolment import MAX_ANSWER, Enrolment
from sekisho.control.pki.authority import Pki
from sekisho.core.errors import SekishoError
from sekisho.host.enrol import enroll
from sekisho.host.line_request import tunnel_key
from siteworld import lab_site

NOW = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
PATHS = (
    "/../core-1",
    "../../policy",
    "/etc/cron.d/x",
    "{{ lookup('pipe','id') }}",
    "%s%n",
    "\0",
    "",
)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    place = tmp_path / "site"
    place.mkdir()
    Pki(place).make("lab", now=NOW)
    return place


def answer(place: Path, host: str = "gate-in") -> dict[str, Any]:
    return dict(enroll(place / f"etc-{host}", host=host))


def data(value: Any) -> bytes:
    return json.dumps(value).encode()


def files(inventory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(inventory)): path.read_bytes()
        for path in inventory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def accept(inventory: Path, given: bytes, host: str = "gate-in", **more: Any) -> Any:
    return Enrolment(inventory, lab_site()).accept(host, given, purpose="agent", now=NOW, **more)


def test_a_first_answer_is_certified_and_its_key_kept_under_both_names(
    inventory: Path, tmp_path: Path
) -> None:
    before, told = files(inventory), answer(tmp_path)
    done = accept(inventory, data(told))
    new = files(inventory).keys() - before.keys()
    assert new == {f"pki/hosts/gate-in{end}" for end in
                   (".crt.pem", ".pub.pem", f".{told['fingerprint'][:16]}.pub.pem")}  # fmt: skip
    held = x509.load_pem_x509_certificate(done.certificate.encode())
    pem = held.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert pem == told["journal_public_key"]
    assert accept(inventory, data(told)).paths == []


def test_a_check_writes_nothing(inventory: Path, tmp_path: Path) -> None:
    before = files(inventory)
    assert accept(inventory, data(answer(tmp_path)), check=True).paths
    assert files(inventory) == before


def test_another_key_of_a_known_host_needs_a_persons_word(inventory: Path, tmp_path: Path) -> None:
    accept(inventory, data(answer(tmp_path)))
    before = files(inventory)
    other = data(answer(tmp_path / "anew"))
    with pytest.raises(SekishoError) as refused:
        accept(inventory, other)
    assert "enrol_replace" in refused.value.diagnostics()
    assert files(inventory) == before
    done = accept(inventory, other, replace=True)
    assert len(done.paths) == 3
    kept = files(inventory)
    assert before["pki/hosts/gate-in.pub.pem"] in kept.values()  # under its own fingerprint
    assert kept["pki/hosts/gate-in.pub.pem"].decode() == json.loads(other)["journal_public_key"]


def test_a_certificate_is_renewed_before_its_end(inventory: Path, tmp_path: Path) -> None:
    told = data(answer(tmp_path))
    first = accept(inventory, told).certificate
    ends = x509.load_pem_x509_certificate(first.encode()).not_valid_after_utc
    enrolment = Enrolment(inventory, lab_site())
    soon = ends - timedelta(days=59)
    again = enrolment.accept("gate-in", told, purpose="agent", now=soon)
    assert again.certificate != first
    assert [Path(one).name for one in again.paths] == ["gate-in.crt.pem"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["fingerprint", "journal_public_key", "host", "csr", "made"])
def test_nothing_a_host_sends_becomes_a_path(
    inventory: Path, tmp_path: Path, field: str, path: str
) -> None:
    before = files(inventory)
    try:
        accept(inventory, data(answer(tmp_path) | {field: path}))
    except SekishoError:
        assert files(inventory) == before
    allowed = re.compile(r"pki/hosts/gate-in(\.[0-9a-f]{16})?\.(pub|crt)\.pem")
    changed = {name for name, held in files(inventory).items() if before.get(name) != held}
    assert all(allowed.fullmatch(name) for name in changed)
    assert {name: held for name, held in files(inventory).items() if name in before} == before


def test_a_host_cannot_answer_for_another_or_with_anothers_key(
    inventory: Path, tmp_path: Path
) -> None:
    mine, its = answer(tmp_path), answer(tmp_path, "core-1")
    with pytest.raises(SekishoError, match="refused"):
        accept(inventory, data(its))
    accept(inventory, data(mine | {"journal_public_key": its["journal_public_key"]}))
    kept = files(inventory)["pki/hosts/gate-in.pub.pem"].decode()
    assert kept == mine["journal_public_key"]


@pytest.mark.parametrize("host", ["../x", "nobody", "", "core-1/../gate-in", "GATE-IN"])
def test_only_machines_of_the_site_are_enrolled(inventory: Path, tmp_path: Path, host: str) -> None:
    before = files(inventory)
    with pytest.raises(SekishoError, match="refused"):
        accept(inventory, data(answer(tmp_path)), host=host)
    assert files(inventory) == before


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["csr", "public", "fingerprint"]) | st.text(max_size=5), inner, max_size=3),
    max_leaves=8).map(data)))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_refused_and_writes_nothing(inventory: Path, given: bytes) -> None:
    before = files(inventory)
    enrolment = Enrolment(inventory, lab_site())
    with pytest.raises(SekishoError):
        enrolment.accept("gate-in", given, purpose="agent", now=NOW)
    with pytest.raises(SekishoError):
        enrolment.accept_tunnel("gate-in", given)
    assert files(inventory) == before


@pytest.mark.parametrize("given", [b"[" * 60_000, b"{" + b" " * MAX_ANSWER, b'{"csr":' * 9_000])
def test_a_long_or_deep_answer_is_refused(inventory: Path, given: bytes) -> None:
    with pytest.raises(SekishoError, match="refused"):
        accept(inventory, given)


def test_a_tunnels_key_is_kept_once_and_replaced_on_a_persons_word(
    inventory: Path, tmp_path: Path
) -> None:
    enrolment = Enrolment(inventory, lab_site())
    first = data(tunnel_key(tmp_path / "one", name="gate-in"))
    other = data(tunnel_key(tmp_path / "two", name="gate-in"))
    assert enrolment.accept_tunnel("gate-in", first).paths
    assert not enrolment.accept_tunnel("gate-in", first).paths
    with pytest.raises(SekishoError, match="refused"):
        enrolment.accept_tunnel("gate-in", other)
    assert enrolment.accept_tunnel("gate-in", other, replace=True).paths
    for bad in ("A" * 43, "A" * 44, "x\n[Peer]\n", f"{'A' * 43}=\n", "é" * 43 + "="):
        with pytest.raises(SekishoError, match="refused"):
            enrolment.accept_tunnel("gate-in", data({"public": bad}), replace=True)


# -- the kind: no task on the controller takes a host's word for anything but standard input -------


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    for one in value if isinstance(value, list) else []:
        if isinstance(one, dict):
            yield one
            for inner in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
                yield from tasks(one.get(inner))


def all_tasks(repository: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted((repository / "playbooks").rglob("*.yml")):
        if "tasks" in path.parts or path.parent.name == "playbooks":
            name = str(path.relative_to(repository))
            found += [(name, one) for one in tasks(yaml.safe_load(path.read_text("utf-8")))]
    return found


def test_a_task_on_the_controller_uses_a_hosts_word_as_standard_input_only(
    repository: Path,
) -> None:
    every = all_tasks(repository)
    delegated = [(at, one) for at, one in every if one.get("delegate_to") == "localhost"]
    assert len(delegated) >= 8, "the controller's tasks were not found"
    ours = {one["register"] for _, one in delegated if "register" in one}
    theirs = {one["register"] for _, one in every if "register" in one} - ours
    assert {"agent_enrolled", "ipsec_asked", "wireguard_asked"} <= theirs
    word = re.compile(rf"\b({'|'.join(sorted(theirs))})\b")
    wrong = []
    for at, one in delegated:
        body = {
            key: value
            for key, value in one.items()
            if "." in key or key.startswith("sekisho_") or key in {"environment", "loop"}
        }
        args = {
            key: dict(value) if isinstance(value, dict) else value for key, value in body.items()
        }
        command = args.get("ansible.builtin.command")
        if isinstance(command, dict):
            command.pop("stdin", None)
        if word.search(json.dumps(args, default=str)):
            wrong.append(f"{at}: {one.get('name')}")
    assert wrong == []
