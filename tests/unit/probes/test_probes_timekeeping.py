"""Time: what chrony is told, what it says, and who may ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran

from sekisho.catalogue.judge import Fact, HostFacts, judge
from sekisho.catalogue.model import Verdict
from sekisho.control.catalogue_files import load_catalogue
from sekisho.probes.model import ProbeError
from sekisho.probes.timekeeping import PROBES

BY_NAME = {probe.name: probe for probe in PROBES}
# Taken from chrony 4.6 on a machine of the lab.
TRACKING = (
    "0A4D0010,10.77.0.16,9,1795316400.1,-0.000012345,0.00001,0.00002,1.5,0.0,0.1,0.0005,0.0001,"
    "16.1,Normal\n"
)
SOURCES = "^,*,10.77.0.16,8,4,17,11,0.000012,0.000013,0.000400\n"


def configuration(text: str) -> Any:
    return BY_NAME["time-configuration"].parse({"conf": held({"/etc/chrony/chrony.conf": text})})


def test_our_client_file_serves_nobody_and_includes_nothing(repository: Any) -> None:
    text = (repository / "hardening/chrony/client.conf").read_text()
    told = configuration(text + "server 10.77.0.16 iburst\n")
    assert told["sources"] == ["10.77.0.16"]
    assert told["further_files"] == []
    assert (told["serves"], told["port"], told["command_port"]) == (False, "0", "0")


@pytest.mark.parametrize("word", ["server", "pool", "peer", "refclock", "SERVER"])
def test_every_kind_of_source_counts(word: str) -> None:
    assert configuration(f"  {word} x.example iburst\n")["sources"] == ["x.example"]


@pytest.mark.parametrize("word", ["include", "confdir", "sourcedir"])
def test_files_read_from_elsewhere_are_named(word: str) -> None:
    assert configuration(f"{word} /run/chrony-dhcp\n")["further_files"] == ["/run/chrony-dhcp"]


@pytest.mark.parametrize("mark", ["#", "!", ";", "%"])
def test_every_comment_mark_of_chrony_is_a_comment(mark: str) -> None:
    assert configuration(f"{mark} server x.example\n")["sources"] == []


def test_a_machine_that_allows_serves() -> None:
    assert configuration("allow 10.77.0.0/24\n")["serves"] is True


def test_chronys_own_defaults_are_open_ports() -> None:
    told = configuration("server x\n")
    assert (told["port"], told["command_port"]) == ("123", "323")


def tracking(text: str = TRACKING, sources: str = SOURCES) -> Any:
    return BY_NAME["time"].parse({"tracking": ran(text), "sources": ran(sources)})


def test_a_clock_that_follows_is_read() -> None:
    assert tracking() == {
        "stratum": 9,
        "offset_us": 12,
        "state": "normal",
        "sources": ["10.77.0.16"],
        "selected": ["10.77.0.16"],
    }


def test_a_clock_that_follows_nobody_says_so() -> None:
    told = tracking(TRACKING.replace("Normal", "Not synchronised"), SOURCES.replace("*", "?"))
    assert (told["state"], told["selected"]) == ("not-synchronised", [])


@pytest.mark.parametrize("status", ["Normal", "Insert second", "Delete second"])
def test_a_leap_second_to_come_is_a_clock_that_follows(status: str) -> None:
    assert tracking(TRACKING.replace("Normal", status))["state"] == "normal"


@pytest.mark.parametrize("status", ["Invalid", "", "Insert"])
def test_a_leap_status_nobody_knows_is_an_error(status: str) -> None:
    with pytest.raises(ProbeError, match="leap status"):
        tracking(TRACKING.replace("Normal", status))


@pytest.mark.parametrize(
    "text", ["", "506 Cannot talk to daemon\n", TRACKING * 2, TRACKING.replace(",9,", ",x,")]
)
def test_a_garbled_answer_is_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        tracking(text)


def test_an_offset_that_is_no_number_is_an_error() -> None:
    for bad in ("nan", "inf", "x", ""):
        with pytest.raises(ProbeError):
            tracking(TRACKING.replace("-0.000012345", bad))


def test_a_chronyc_that_fails_is_an_error() -> None:
    with pytest.raises(ProbeError):
        BY_NAME["time"].parse({"tracking": ran("", rc=1), "sources": ran("")})


@given(st.text(max_size=300))
def test_no_answer_makes_the_readers_crash(text: str) -> None:
    configuration(text)
    try:
        tracking(text, text)
    except ProbeError:
        return


UDP = "  sl  local_address rem_address   st tx_queue\n"


def sockets(*lines: str) -> Any:
    text = UDP + "".join(f"{line}\n" for line in lines)
    return BY_NAME["time-sockets"].parse({"udp": held({"/proc/net/udp": text})})["bound"]


def test_a_bound_time_port_is_found_and_a_clients_connection_is_not() -> None:
    assert sockets(" 1: 00000000:007B 00000000:0000 07 0") == ["00000000:123"]
    assert sockets(" 1: 0100007F:0143 00000000:0000 07 0") == ["0100007F:323"]
    assert sockets(" 1: 0D004D0A:8F1C 10004D0A:007B 01 0") == []
    assert sockets(" 1: 00000000:14E9 00000000:0000 07 0") == []


def test_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ProbeError):
        BY_NAME["time-sockets"].parse({"udp": held({})})


SYNCHRONISED = next(
    check
    for check in load_catalogue(Path(__file__).resolve().parents[3] / "hardening").checks
    if check.id == "6-iv-b.time-synchronised"
)


@pytest.mark.parametrize(
    ("leap", "sources", "verdict"),
    [
        ("Normal", SOURCES, Verdict.PASS),
        # what chronyc says during the days before a leap second: the clock follows all the same
        ("Insert second", SOURCES, Verdict.PASS),
        ("Delete second", SOURCES, Verdict.PASS),
        ("Not synchronised", SOURCES, Verdict.FAIL),
        # chrony stays "Normal" for a while after its source is gone
        ("Normal", SOURCES.replace("*", "?"), Verdict.FAIL),
        ("Normal", "", Verdict.FAIL),
    ],
)
def test_a_clock_follows_with_a_leap_second_ahead_and_not_without_a_source(
    leap: str, sources: str, verdict: Verdict
) -> None:
    fact = Fact(value=tracking(TRACKING.replace("Normal", leap), sources))
    policy = {"time": {"servers": ["10.77.0.16"]}}
    facts = HostFacts(host="h", role="core", facts={"time": fact}, policy=policy)
    assert judge(SYNCHRONISED, facts).verdict is verdict
