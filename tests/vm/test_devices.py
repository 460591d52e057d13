"""The device battery: what is plugged in, at whatever moment, opens no way out. Item 6(iii)(c)."""

from __future__ import annotations

import pytest
from tests.vm.devices import plan
from tests.vm.devices.battery import Report, battery, write
from tests.vm.trial import REPOSITORY, Lab

pytestmark = pytest.mark.vm
CASES = {case.name: case for case in plan.cases()}


@pytest.fixture(scope="module")
def report(provisioned: Lab) -> Report:  # noqa: ARG001 - core-1 has its wall, outside has none
    done = battery()
    write(done, REPOSITORY / ".lab/devices.json")
    return done


def test_there_are_enough_cases_that_are_tried() -> None:
    assert sum(not case.skipped for case in CASES.values()) >= 120


def test_the_kernel_was_heard_all_the_time(report: Report) -> None:
    assert [o.moment for o in report.walled.values() if o.lost or o.error] == []


def test_no_way_opened_where_nothing_was_plugged_in(report: Report) -> None:
    assert [stray for o in report.walled.values() for stray in o.strays] == []


def test_what_was_plugged_in_is_in_the_journal(report: Report) -> None:
    told = report.walled["running"].delays
    assert len(told.plug) == sum(not d.cold for d in plan.devices())


@pytest.mark.parametrize("name", CASES)
def test_a_device_opens_nothing(report: Report, name: str) -> None:
    (result,) = [r for r in report.results if r.case.name == name]
    if result.verdict == "skipped":
        pytest.skip(result.why)
    assert (result.verdict, result.why) == ("pass", result.why)
    assert result.control, "its positive control gave nothing"
