"""The module list: proposed from what works, fit to be enforced, and the wall's decisions."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices.module_list import (
    HOST_CONTROLLERS,
    LOCKS,
    Wanted,
    defects,
    parse_loaded,
    parse_proven,
    propose,
    render,
    required,
)
from sekisho.devices.module_lock import Boot, State, decide, settle
from sekisho.devices.modules import GROUPS
from sekisho.host.devices.module_wall import wanted_of
from sekisho.policy.host_policy import HostPolicy
from sekisho.site.model import Role
from siteworld import host_policy, lab_raw, lab_site, policy, problems

LOADED = """\
nft_ct 28672 6 - Live 0x0000000000000000
nf_tables 372736 130 nft_ct, Live 0x0000000000000000
virtio_net 106496 0 - Live 0x0000000000000000
pcspkr 12288 0 - Live 0x0000000000000000
xhci_pci 28672 0 - Live 0x0000000000000000
usb_storage 90112 1 - Live 0x0000000000000000
"""
CORE = "host_vars/core-1.yml"
TERMINAL = "host_vars/terminal-1.yml"


def listed(role: str = "core", console: str = "listed-keyboard") -> list[str]:
    needs = required(console=console, role=role).values()
    return sorted({name for names in needs for name in names} | {"xhci_pci"})


def test_a_proposal_holds_what_works_and_what_the_role_needs_and_names_the_rest() -> None:
    found = propose(parse_loaded(LOADED), console="listed-keyboard", role="core")
    assert found.allow["nf_tables"] == "used by nft_ct"
    assert found.allow["usbhid"] == "the console's keyboard"
    assert "xhci_pci" in found.allow
    assert found.idle == ("pcspkr", "virtio_net")
    assert found.blocked == ("usb_storage",)
    assert not set(found.allow) & {"usb_storage", "pcspkr"}


def test_what_drives_a_device_is_needed() -> None:
    seen = parse_loaded(LOADED)
    driving = [
        one if one.name != "virtio_net" else type(one)("virtio_net", 0, (), 1) for one in seen
    ]
    assert propose(driving, console="serial", role="core").allow["virtio_net"] == "drives 1 device"


@pytest.mark.parametrize("role", [role.value for role in Role])
@pytest.mark.parametrize("console", ["serial", "listed-keyboard"])
def test_a_proposal_put_into_the_site_is_fit_to_be_enforced(role: str, console: str) -> None:
    text = render(propose(parse_loaded(LOADED), console=console, role=role), lock="enforce")
    value = yaml.safe_load(text)["modules"]
    listed = parse_proven(value["allow"], "x")
    assert list(defects(listed, console=console, role=role)) == []


def test_a_proposal_reads_back_through_the_site_model() -> None:
    found = propose(parse_loaded(LOADED), console="listed-keyboard", role="terminal")
    text = next(file.text for file in lab_raw().host_vars if file.path == TERMINAL)
    edited = {TERMINAL: text.rstrip("\n") + "\n" + render(found, lock="enforce")}
    assert problems(edited) == []
    told = policy("terminal-1", edited)["modules"]
    assert told == {"lock": "enforce", "allow": sorted(found.allow), "disabled": "1"}


def test_without_a_word_of_it_the_lock_is_off() -> None:
    assert policy("gate-in")["modules"] == {"lock": "off", "allow": [], "disabled": "0"}
    silent = policy("gate-in")
    del silent["modules"]  # an older compiler's
    assert wanted_of(HostPolicy.parse(silent)) == Wanted()


@pytest.mark.parametrize("lock", ["dry-run", "enforce"])
@pytest.mark.parametrize("gone", ["usbhid", "nf_tables", "hid_generic", "xhci_pci"])
def test_a_list_without_what_the_console_or_the_filter_needs_is_refused(
    lock: str, gone: str
) -> None:
    names = tuple(name for name in listed() if name != gone)
    assert list(defects(Wanted(lock, names), console="listed-keyboard", role="core"))
    assert not list(defects(Wanted("off", names), console="listed-keyboard", role="core"))


def test_a_gateways_list_holds_the_ip_vpn() -> None:
    wanted = Wanted("enforce", tuple(listed()))
    assert list(defects(wanted, console="serial", role="core")) == []
    assert list(defects(wanted, console="serial", role="gateway"))


def test_no_blocked_module_enters_a_list_even_with_the_lock_off() -> None:
    for name in ("usb_storage", "loop", "vhci_hcd"):
        told = list(defects(Wanted("off", (name,)), console="serial", role="core"))
        assert [name in got for _, got, _ in told] == [True]


def test_what_the_enclave_requires_is_blocked_by_no_group() -> None:
    shut = {name for group in GROUPS.values() for name in group.modules}
    for role, console in itertools.product(Role, ("serial", "listed-keyboard")):
        needs = required(console=console, role=role.value).values()
        assert not shut & {name for names in needs for name in names}
    assert not shut & set(HOST_CONTROLLERS)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ("modules: {lock: closed, allow: []}", "modules.lock"),
        ("modules: {lock: off, allow: ['../x']}", "modules.allow"),
        ("modules: {lock: off, allow: [ext4, ext4]}", "modules.allow"),
        ("modules: {lock: off, allow: [nft-ct, nft_ct]}", "modules.allow"),
        ("modules: {lock: off, allow: [], more: 1}", "modules.more"),
        ("modules: {lock: off}", "modules.allow"),
        ("modules: [ext4]", "modules"),
        ("modules: {lock: enforce, allow: []}", "modules.allow"),
        ("modules: {lock: off, allow: [usb_storage]}", "modules.allow"),
    ],
)
def test_a_list_of_another_form_is_refused_with_its_line(body: str, key: str) -> None:
    text = next(file.text for file in lab_raw().host_vars if file.path == TERMINAL)
    found = problems({TERMINAL: text.rstrip("\n") + f"\n  {body}\n"})
    assert key in {problem.key for problem in found}
    assert all(problem.where.startswith("lab/host_vars/terminal-1.yml:") for problem in found)


@pytest.mark.parametrize(
    "modules",
    [None, [], {"lock": "shut", "allow": []}, {"lock": "off", "allow": "x"},
     {"lock": "off", "allow": ["a b"]}, {"lock": "off", "allow": ["x"] * 501}, {"lock": "off"}],
)  # fmt: skip
def test_a_garbled_policy_is_an_error_and_no_open_wall(modules: Any) -> None:
    with pytest.raises(SekishoError):
        host_policy("gate-in", modules=modules)


@given(st.text(max_size=200))
def test_no_list_of_modules_crashes_the_reader(text: str) -> None:
    with contextlib.suppress(SekishoError):
        parse_loaded(text)


def test_the_labs_sites_lists_are_those_of_the_model() -> None:
    assert {machine.modules.lock for machine in lab_site().machines.values()} <= set(LOCKS)


# -- when it closes --------------------------------------------------------------------------------

_STATES = st.builds(State, st.booleans(), st.booleans(), st.sampled_from(["", "20261122-ab"]))
_WANTED = st.builds(Wanted, st.sampled_from(LOCKS), st.just(("ext4",)))
_BOOTS = st.builds(
    Boot,
    st.booleans(),
    st.sampled_from([(), ("loop",)]),
    st.sampled_from(["", "no keyboard"]),
)


@given(_WANTED, _STATES)
def test_the_wall_closes_exactly_when_it_is_enforced_proven_and_nobody_ordered_otherwise(
    wanted: Wanted, state: State
) -> None:
    close = wanted.lock == "enforce" and state.proven and not state.maintenance and not state.closed
    found = decide(wanted, state)
    assert found.close == close
    assert found.why


@given(_WANTED, _STATES, _BOOTS)
def test_a_running_machine_is_closed_on_nothing_but_a_tried_or_proven_list(
    wanted: Wanted, state: State, boot: Boot
) -> None:
    step = settle(wanted, state, boot)
    assert step.why
    if step.act == "close":
        assert wanted.lock == "enforce"
        assert not state.closed
        assert not state.maintenance
        assert state.proven or (boot.tried and not boot.late and not boot.lost)
    if step.act == "prove":
        assert state.closed
        assert boot.tried
    if step.needs_boot:
        assert step.act == "nothing"
        assert not boot.tried


@given(_WANTED, _STATES, _BOOTS)
def test_settling_twice_does_nothing_the_second_time(
    wanted: Wanted, state: State, boot: Boot
) -> None:
    step = settle(wanted, state, boot)
    if step.act != "nothing":
        after = State(closed=True, proven=True, maintenance=state.maintenance)
        assert settle(wanted, after, boot).act == "nothing"


def test_lost_ways_in_and_late_modules_keep_it_open_and_are_told() -> None:
    wanted, state = Wanted("enforce", ("ext4",)), State(closed=False, proven=False)
    assert "no keyboard" in settle(wanted, state, Boot(tried=True, lost="no keyboard")).why
    assert "loop" in settle(wanted, state, Boot(tried=True, late=("loop",))).why
    assert settle(wanted, state, Boot(tried=False)).needs_boot
