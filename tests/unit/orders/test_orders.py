"""An order holds for three people, three keys and one window, and for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orderworld import CONTENT, KEYS, NOW, SIGNERS, STICK, body, good, sign, signer
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.orders.judge import problems_of, prove, signers_of
from sekisho.orders.kinds import KINDS
from sekisho.orders.model import Act, Order, Phase, write_time
from sekisho.orders.parse import parse_body, parse_order, render_order, signed_by
from sekisho.orders.sealing import approval_key, message, seal
from sekisho.policy.host_policy import HostPolicy
from siteworld import host_policy, policy


def why(order: Order, **change: Any) -> str:
    """Return what keeps the order from holding, "" when it holds."""
    asked: dict[str, Any] = {"site": "lab", "host": "core-1", "now": NOW, **change}
    signers = asked.pop("signers", SIGNERS)
    try:
        prove(render_order(order), signers, where="order.json", **asked)
    except SekishoError as no:
        return no.diagnostics()
    return ""


def refusal(call: Callable[[], object]) -> str:
    """Return what a refusal says to its reader."""
    with pytest.raises(SekishoError) as no:
        call()
    return no.value.diagnostics()


def test_a_good_order_holds_and_says_who() -> None:
    order = prove(
        render_order(good()), SIGNERS, site="lab", host="core-1", now=NOW, where="order.json"
    )
    assert (order.requester, order.approvers) == ("baba", ("chiba", "aoki"))
    assert order.phase(NOW) is Phase.WITHIN


def test_its_file_reads_back_as_the_same_order() -> None:
    order = good()
    assert parse_order(render_order(order), "x") == order


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"site": "other"}, "site: got lab"),
        ({"host": "core-2"}, "host: got core-1"),
        ({"now": NOW - timedelta(hours=2)}, "before it"),
        ({"now": NOW + timedelta(hours=1)}, "over it"),
        ({"signers": {}}, "nobody the site knows"),
        ({"signers": {**SIGNERS, "chiba": signer("chiba", date(2026, 11, 24))}}, "authority until"),
    ],
)
def test_elsewhere_or_at_another_time_it_does_not_hold(change: dict[str, Any], said: str) -> None:
    assert said in why(good(), **change)


def test_the_window_has_its_first_second_and_not_its_last() -> None:
    order = good()
    assert why(order, now=order.start) == ""
    assert "over" in why(order, now=order.end)


@pytest.mark.parametrize(
    ("signatures", "said"),
    [
        ([(Act.REQUEST, "baba", "baba")], "approved by nobody"),
        ([(Act.REQUEST, "baba", "baba"), (Act.APPROVE, "chiba", "chiba")], "approved by chiba"),
        ([(Act.APPROVE, "chiba", "chiba"), (Act.APPROVE, "aoki", "aoki")], "request first"),
        (
            [
                (Act.REQUEST, "baba", "baba"),
                (Act.APPROVE, "baba", "baba"),
                (Act.APPROVE, "chiba", "chiba"),
            ],
            "baba again",
        ),
        (
            [
                (Act.REQUEST, "baba", "baba"),
                (Act.APPROVE, "chiba", "chiba"),
                (Act.APPROVE, "chiba", "chiba"),
            ],
            "chiba again",
        ),
        (
            [
                (Act.REQUEST, "baba", "baba"),
                (Act.APPROVE, "chiba", "chiba"),
                (Act.APPROVE, "auditor", "auditor"),
            ],
            "approve by auditor",
        ),
        (
            [
                (Act.REQUEST, "baba", "baba"),
                (Act.APPROVE, "chiba", "chiba"),
                (Act.APPROVE, "aoki", "baba"),
            ],
            "signatures.aoki: got a signature that does not fit",
        ),
        (
            [
                (Act.REQUEST, "aoki", "aoki"),
                (Act.APPROVE, "chiba", "chiba"),
                (Act.APPROVE, "doi", "doi"),
            ],
            "the request of baba",
        ),
    ],
)
def test_too_few_twice_or_the_wrong_people_are_refused(
    signatures: list[tuple[Act, str, str]], said: str
) -> None:
    assert said in why(sign(parse_body(body(), "order"), *signatures))


def test_the_requester_cannot_approve_even_without_a_request() -> None:
    order = sign(
        parse_body(body(requester="aoki"), "order"),
        (Act.APPROVE, "aoki", "aoki"),
        (Act.APPROVE, "chiba", "chiba"),
    )
    found = problems_of(order, SIGNERS, site="lab", host="core-1", now=NOW, where="x")
    assert any("own approval" in problem.got for problem in found)


def test_one_approver_is_an_officer() -> None:
    signers = {**SIGNERS, "doi": replace(SIGNERS["doi"], role=SIGNERS["aoki"].role)}
    order = sign(
        parse_body(body(), "order"),
        (Act.REQUEST, "baba", "baba"),
        (Act.APPROVE, "doi", "doi"),
        (Act.APPROVE, "aoki", "aoki"),
    )
    assert "no officer among the approvers" in why(order, signers=signers)
    assert why(order) == ""  # as the officer she is, it holds


def test_two_names_with_one_key_are_one_person() -> None:
    signers = {**SIGNERS, "doi": replace(SIGNERS["doi"], key=SIGNERS["aoki"].key)}
    order = sign(
        parse_body(body(), "order"),
        (Act.REQUEST, "baba", "baba"),
        (Act.APPROVE, "aoki", "aoki"),
        (Act.APPROVE, "doi", "aoki"),
    )
    assert "one key of two people" in why(order, signers=signers)


def test_a_request_is_no_approval_and_nobodys_is_anothers() -> None:
    order = parse_body(body(), "order")
    asked = seal(KEYS["chiba"], Act.REQUEST, "chiba", order)
    wrong = replace(asked, act=Act.APPROVE)
    rest = sign(order, (Act.REQUEST, "baba", "baba"), (Act.APPROVE, "aoki", "aoki"))
    assert "signatures.chiba: got a signature that does not fit" in why(signed_by(rest, wrong))
    kinds = {message(act, by, order) for act in Act for by in SIGNERS}
    assert len(kinds) == len(Act) * len(SIGNERS)


def test_a_signature_of_another_order_does_not_fit() -> None:
    other = good(id="20261125-fedcba9876543210")
    order = replace(good(), signatures=other.signatures)
    assert why(order).count("does not fit") == 3


@pytest.mark.parametrize(
    "change",
    [
        {"schema": True},
        {"schema": 2},
        {"kind": "release"},
        {"kind": ["device-exception"]},
        {"id": "20261125-0123456789abcdeF"},
        {"site": "Lab"},
        {"host": "core-1\n"},
        {"requester": ""},
        {"reason": "ab"},
        {"reason": " padded reason"},
        {"reason": "line\nbreak"},
        {"reason": "hidden\u202etext"},
        {"made": "2026-11-25 04:00:00Z"},
        {"start": "2026-11-25T24:00:00Z"},
        {"start": "2026-02-30T05:00:00Z"},
        {"end": write_time(NOW - timedelta(hours=1))},
        {"end": write_time(NOW + timedelta(hours=7, seconds=1))},
        {"made": write_time(NOW)},
        {"made": write_time(NOW - timedelta(days=15))},
        {"content": {}},
        {"content": {**CONTENT, "more": 1}},
        {"more": 1},
    ],
)
def test_what_is_out_of_its_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SekishoError, match="refused"):
        parse_body(body(**change), "order")


def test_the_longest_window_is_accepted() -> None:
    longest = KINDS["device-exception"].longest
    parse_body(body(end=write_time(NOW - timedelta(hours=1) + longest)), "order")


@pytest.mark.parametrize(
    "content",
    [
        {"device": {**STICK, "interfaces": ["08:06:50", "03:01:01"]}, "direction": "in"},
        {"device": {**STICK, "interfaces": ["08:06:62"]}, "direction": "in"},
        {"device": {**STICK, "interfaces": ["06:01:01"]}, "direction": "in"},
        {"device": {**STICK, "interfaces": ["e0:01:01"]}, "direction": "none"},
        {"device": {**STICK, "interfaces": ["ff:00:00"]}, "direction": "none"},
        {"device": {**STICK, "interfaces": ["02:06:00"]}, "direction": "none"},
        {"device": {**STICK, "interfaces": ["03:01:01"]}, "direction": "in"},
        {"device": {**STICK, "count": 2}, "direction": "in"},
        {"device": {**STICK, "serial": ""}, "direction": "in"},
        {"device": STICK, "direction": "none"},
        {"device": STICK, "direction": "both"},
        {"device": [], "direction": "in"},
    ],
)
def test_an_exception_names_one_device_and_what_crosses(content: dict[str, Any]) -> None:
    assert "content" in refusal(lambda: parse_body(body(content=content), "order"))


@pytest.mark.parametrize(
    "content",
    [
        {"device": STICK, "direction": "out"},
        {"device": {**STICK, "interfaces": ["08:06:50", "08:06:62"]}, "direction": "in"},
        {"device": {**STICK, "interfaces": ["03:01:01", "03:01:02"]}, "direction": "none"},
        {"device": {**STICK, "interfaces": ["0b:00:00"]}, "direction": "none"},
    ],
)
def test_disks_input_and_card_readers_can_be_excepted(content: dict[str, Any]) -> None:
    assert why(good(content=content)) == ""


def test_a_maintenance_order_names_its_walls() -> None:
    order = good(kind="maintenance", content={"opens": ["modules"]})
    assert why(order) == ""
    for opens in ([], ["b", "a"], ["a", "a"], ["A"], "modules", [1], [["a"]]):
        wrong = body(kind="maintenance", content={"opens": opens})
        assert "names of walls" in refusal(lambda wrong=wrong: parse_body(wrong, "order"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null\n",
        b"[]\n",
        b'{"order":{},"signatures":[]}\n',
        b'{"order":1,"order":1,"signatures":[]}\n',
        b"\xff\n",
        b"[" * 40_000,
        b'{"signatures":[], "order":{}}\n',
    ],
)
def test_garbled_files_are_refused_clearly(raw: bytes) -> None:
    with pytest.raises(SekishoError, match="order was refused") as no:
        parse_order(raw, "order.json")
    assert "order.json" in no.value.diagnostics()


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"act": "request", "by": "baba", "signature": "AB" * 40},
        {"act": "request", "by": "baba", "signature": ""},
        {"act": "end", "by": "baba", "signature": "ab" * 40},
        {"act": ["request"], "by": "baba", "signature": "ab" * 40},
        {"act": "request", "by": "Baba\n", "signature": "ab" * 40},
        {"act": "request", "by": "baba", "signature": "ab" * 40, "more": 1},
    ],
)
def test_garbled_signatures_are_refused(entry: Any) -> None:
    raw = canonical({"order": body(), "signatures": [entry]}) + b"\n"
    assert "signatures" in refusal(lambda: parse_order(raw, "order.json"))


def test_more_signatures_than_an_order_needs_are_refused() -> None:
    order = sign(good(), (Act.APPROVE, "doi", "doi"))
    assert "at most 3" in refusal(lambda: parse_order(render_order(order), "order.json"))


def test_signers_come_from_the_policy_or_not_at_all() -> None:
    entry = {
        "role": "officer",
        "authority_until": "2035-03-31",
        "key": base64.b64encode(SIGNERS["chiba"].key).decode(),
    }
    told = host_policy("core-1", orders={"people": {"chiba": entry}})
    assert signers_of(told) == {"chiba": SIGNERS["chiba"]}
    silent = policy("core-1")
    del silent["orders"]  # an older compiler's
    with pytest.raises(SekishoError, match="cannot be told"):
        signers_of(HostPolicy.parse(silent))
    for broken in (
        {"orders": None},
        {"orders": {"people": []}},
        {"orders": {"people": {"chiba": None}}},
        {"orders": {"people": {"chiba": {**entry, "role": "boss"}}}},
        {"orders": {"people": {"chiba": {**entry, "authority_until": "soon"}}}},
        {"orders": {"people": {"chiba": {**entry, "key": "?"}}}},
        {"orders": {"people": {"Chiba": entry}}},
    ):
        with pytest.raises(SekishoError, match="refused") as refused:
            host_policy("core-1", **broken)
        assert refused.value.problems[0].key.startswith("orders")


def test_an_approval_key_is_p384_in_pem() -> None:
    public = KEYS["aoki"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert approval_key(pem) == SIGNERS["aoki"].key
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    small = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for bad in (b"", b"ssh-ed25519 AAAA", small):
        with pytest.raises(ValueError, match="key"):
            approval_key(bad)


def test_a_signer_with_another_kind_of_key_never_holds() -> None:
    signers = {**SIGNERS, "aoki": replace(SIGNERS["aoki"], key=b"no key")}
    assert "signatures.aoki: got a signature that does not fit" in why(good(), signers=signers)
