"""The host's own policy as a probe read it: what others wrote, so only what parses counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sekisho.core.errors import SekishoError
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.model import FileOutcome, ProbeError, text_of

POLICY = "/etc/sekisho/policy.json"


def policy_of(found: Mapping[str, FileOutcome]) -> HostPolicy:
    """Return the policy among the files read; `ProbeError` when there is none that parses."""
    try:
        return HostPolicy.parse(text_of(found, POLICY).encode("utf-8", "surrogatepass"), POLICY)
    except SekishoError as bad:
        raise ProbeError(f"the policy: {bad.problems[0].line()}") from None
