"""The lab for tests: `pytest --lab tests/vm`, or `make test-lab`; skipped without --lab."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vagrant"))

from labkit.api import Lab
from tests.vm.demo import provision, state_name
from tests.vm.trial import Lab as Site


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder; the tests' own conftest skips `vm` without --lab."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The running lab; brought up when it is down and then taken down again at the end."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    it = Lab()
    was_up = it.is_up
    if not was_up:
        it.up()
    yield it
    if not was_up:
        it.down()


@pytest.fixture
def fresh(lab: Lab) -> Lab:
    """The lab as it was right after its first boot."""
    lab.restore("fresh")
    return lab


@pytest.fixture(scope="module")
def provisioned(lab: Lab) -> Site:  # noqa: ARG001 - brought up, and down at the end
    """The lab brought to the site's policy, from its saved state when one is held."""
    site = Site()
    provision(site)
    return site


@pytest.fixture
def machine(lab: Lab, provisioned: Site) -> Iterator[Site]:
    """The managing server as it was provisioned, before and after; nothing else is touched."""
    lab.restore(state_name(), "core-1")
    yield provisioned
    provisioned.driver("usb-unplug", "core-1", check=False)
    lab.restore(state_name(), "core-1")
