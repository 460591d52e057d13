"""What a third party could use: found by what it is not, a package's."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran

from sekisho.probes.model import ProbeError
from sekisho.probes.software import PROBES, read_digests

BY_NAME = {probe.name: probe for probe in PROBES}
MD5 = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


def integrity(now: str, recorded: str = f"{MD5}  usr/sbin/sshd\n") -> Any:
    return BY_NAME["integrity"].parse(
        {"now": ran(now), "recorded": held({"/var/lib/dpkg/info/x.md5sums": recorded})}
    )


def test_a_program_as_its_package_brought_it_is_whole() -> None:
    told = integrity(f"{MD5}  /usr/sbin/sshd\n")
    assert told == {"compared": 1, "changed": [], "unrecorded": []}


def test_a_changed_program_and_one_of_no_package_are_told() -> None:
    told = integrity(f"{OTHER}  /usr/sbin/sshd\n{MD5}  /usr/lib/openssh/x\n")
    assert told["changed"] == ["/usr/sbin/sshd"]
    assert told["unrecorded"] == ["/usr/lib/openssh/x"]


def test_records_of_debian_12_without_usr_count() -> None:
    told = integrity(f"{MD5}  /usr/bin/su\n", f"{MD5}  bin/su\n")
    assert told["changed"] == told["unrecorded"] == []


@pytest.mark.parametrize("bad", ["", "x  /a\n", f"\\{MD5}  /a\\nb\n", f"{MD5}  a\n"])
def test_digests_that_cannot_be_read_are_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        integrity(bad)


def test_what_listens_is_told_by_program() -> None:
    line = (
        'tcp LISTEN 0 1 127.0.0.1:4444 0.0.0.0:* users:(("nc",pid=1,fd=3),("a\\"b",pid=2,fd=1))\n'
    )
    told = BY_NAME["processes"].parse({"names": ran("sh\nnc\n"), "listening": ran(line)})
    assert told["listening"] == ['a\\"b', "nc"]
    assert told["names"] == ["nc", "sh"]


def test_a_listener_whose_program_is_not_shown_is_no_fact() -> None:
    line = "tcp LISTEN 0 128 10.0.0.1:22 0.0.0.0:*\n"
    with pytest.raises(ProbeError, match="not shown"):
        BY_NAME["processes"].parse({"names": ran("sh\n"), "listening": ran(line)})


def test_active_timers_are_told() -> None:
    told = BY_NAME["timers"].parse({"timers": ran("a.timer loaded active waiting A\n\n")})
    assert told == {"active": ["a.timer"]}
    with pytest.raises(ProbeError):
        BY_NAME["timers"].parse({"timers": ran("", rc=1)})


@given(st.text())
def test_readers_take_any_text_or_refuse_it(text: str) -> None:
    with contextlib.suppress(ProbeError):
        read_digests(text)


def test_the_kernels_own_socket_of_a_tunnel_is_no_programs() -> None:
    line = "udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:* \n"
    raw = {"names": ran("sh\n"), "listening": ran(line)}
    told = ran("wg-2827a0be\t51820\n")
    assert BY_NAME["processes"].parse(raw | {"tunnels": told})["listening"] == []
    for other in (ran("wg-2827a0be\t51821\n"), ran("", rc=1), {"error": "wg is not installed"}):
        with pytest.raises(ProbeError, match="not shown"):
            BY_NAME["processes"].parse(raw | {"tunnels": other})
