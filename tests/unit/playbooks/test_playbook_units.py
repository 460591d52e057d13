"""What the playbooks ask of systemd: as few reloads as can be, and none in a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from playbookmodules import module
from siteworld import policy, tunnelled

pytestmark = pytest.mark.process  # importing Ansible looks the syslog service up


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    library = module()
    monkeypatch.setattr(library, "ETC", str(tmp_path))
    monkeypatch.setattr(library, "PUT_OFF", str(tmp_path / "put-off"))
    calls: list[tuple[str, ...]] = []

    class Recorded(library.Live):  # type: ignore[misc, name-defined] - loaded by its path
        def run(self, *argv: str) -> str:
            if argv[1] == "list-units":
                return (
                    "held.service loaded active running A unit that is held\n"
                    "person@7.service loaded active running One of a template\n"
                )
            if argv[1] == "show":
                names = argv[argv.index("--") + 1 :]
                if any("@." in name for name in names):  # as systemctl does
                    raise library.Trouble("Unit name is missing the instance name.")
                return "\n\n".join(
                    f"Id={name}\nActiveState={'active' if name == 'held.service' else 'inactive'}"
                    "\nUnitFileState=disabled\nNeedDaemonReload="
                    f"{'yes' if name in self.differ else 'no'}" for name in names
                )  # fmt: skip
            calls.append(argv[1:])
            return ""

    made = Recorded(check=False, warn=lambda _: None)
    made.calls = calls
    made.differ = set()
    made.put_off = tmp_path / "put-off"
    return made


def test_a_unit_systemd_does_not_hold_is_masked_without_a_reload(live: Any, tmp_path: Path) -> None:
    live.units(["other.service"], [], [], reload=False, restart=[])
    assert (tmp_path / "other.service").readlink() == Path("/dev/null")
    assert live.calls == []


def test_a_unit_that_is_held_is_masked_and_stopped_and_the_reload_put_off(live: Any) -> None:
    live.units(["held.service"], [], [], reload=False, restart=[])
    assert live.calls == [("stop", "held.service")]
    assert live.put_off.exists()


def test_a_template_is_masked_and_read_again_when_one_of_it_is_held(
    live: Any, tmp_path: Path
) -> None:
    live.units(["other@.service"], [], [], reload=False, restart=[])
    assert (tmp_path / "other@.service").readlink() == Path("/dev/null")
    assert not live.put_off.exists()
    live.units(["person@.service"], [], [], reload=False, restart=[])
    assert (tmp_path / "person@.service").readlink() == Path("/dev/null")
    assert live.put_off.exists()
    assert live.calls == []


def test_what_was_put_off_is_settled_once(live: Any) -> None:
    live.units([], [], [], reload=True, restart=["held.service"])
    live.settle()
    live.settle()
    assert live.calls == [("restart", "held.service"), ("daemon-reload",)]
    assert not live.put_off.exists()


def test_the_reload_of_enabling_is_put_off_and_all_units_go_in_one_call(live: Any) -> None:
    live.units([], ["a.service", "b.service"], ["c.service"], reload=False, restart=[])
    assert live.calls == [
        ("--root=/", "enable", "a.service", "b.service", "c.service"),
        ("start", "a.service"),
        ("start", "b.service"),
    ]
    assert live.put_off.exists()


def test_a_masked_unit_that_is_wanted_is_unmasked_and_read_again(live: Any, tmp_path: Path) -> None:
    (tmp_path / "a.service").symlink_to("/dev/null")
    live.units([], ["a.service"], [], reload=False, restart=[])
    assert not (tmp_path / "a.service").exists()
    assert live.calls == [
        ("--root=/", "enable", "a.service"), ("daemon-reload",), ("start", "a.service"),
    ]  # fmt: skip


def test_a_changed_fstab_is_read_once_with_everything_else(live: Any) -> None:
    live.stale = True
    live.differ = {"z.service"}
    live.units(["held.service"], [], [], reload=True, restart=["z.service"])
    assert [call for call in live.calls if call == ("daemon-reload",)] == [("daemon-reload",)]
    assert live.calls[-1] == ("restart", "z.service")


def test_a_dry_run_tells_and_does_nothing(live: Any, tmp_path: Path) -> None:
    live.check = True
    live.units(["held.service"], ["a.service"], [], reload=True, restart=["z.service"])
    assert live.calls == []
    live.settle()
    assert list(tmp_path.iterdir()) == []
    assert "held.service: masked" in live.after


WG = policy("gate-in", tunnelled())
CARD, PORT, KEY, END, ALLOWED = WG["tunnel_peers"][0].split(" ")
SHOWN = {
    "listen-port": f"{CARD}\t{PORT}\n",
    "endpoints": f"{CARD}\t{KEY}\t{END}\n",
    "allowed-ips": f"{CARD}\t{KEY}\t{ALLOWED}\n",
}


def mended(shown: dict[str, str], *, anew: bool = False) -> Any:
    """Return the plan for a gateway whose kernel shows this of its tunnels."""

    class Kernel:
        @staticmethod
        def run_command(argv: list[str]) -> tuple[int, str, str]:
            return 0, shown[argv[-1]], ""

    library = module("sekisho_network")
    plan = library.Plan(Kernel())
    library.tunnels(plan, WG, anew=anew, wait=lambda _: None)
    return plan


def test_a_tunnel_as_declared_is_left_alone_and_any_other_is_made_anew() -> None:
    assert mended(SHOWN).commands == mended(SHOWN).said == []
    other = SHOWN["allowed-ips"].replace(ALLOWED, f"{ALLOWED} 0.0.0.0/0")
    second = SHOWN["allowed-ips"] + f"{CARD}\t{'A' * 43}=\t(none)\n"
    for shown in (
        SHOWN | {"allowed-ips": other},
        SHOWN | {"allowed-ips": second},
        SHOWN | {"endpoints": SHOWN["endpoints"].replace(END, "(none)")},
        SHOWN | {"listen-port": f"{CARD}\t51999\n"},
        dict.fromkeys(SHOWN, ""),
    ):
        assert mended(shown).commands[-1] == ["systemctl", "restart", "systemd-networkd.service"]
        assert mended(shown).said != []
    assert mended(SHOWN, anew=True).said != []


@pytest.mark.process
def test_whoever_sniffs_is_found_by_the_kernels_own_lists(tmp_path: Path) -> None:
    """`ss -e` writes a second line for each packet socket, and no inode for a raw one."""
    for name, text in (
        ("packet", "sk RefCnt Type Proto Iface R Rmem User Inode\n00 3 3 0003 0 1 0 0 91\n"),
        (
            "raw",
            "  sl  local rem st\n   1: 00000000:0001 00000000:0000 07 0:0 0:0 0 0 0 92 2 00 0\n",
        ),
    ):
        (tmp_path / name).write_text(text)
    network = module("sekisho_network")
    assert network.sniffers(tmp_path) == {91, 92}

    class Plan:
        def ask(self, *_: str) -> str:
            return "p_raw UNCONN 0 0 [768]:* * ino:91 sk:46\n\tver:0 cpy_thresh:0\n"

    assert len(network._sockets(Plan(), "-0")) == 1
