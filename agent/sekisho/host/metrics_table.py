"""The agent's metrics: every name, its kind, labels and meaning. The reference page is made of it.

No value of a label comes from outside: a device or a command cannot make new time series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sekisho.devices.attempts import CLASSES, DECISIONS

PORT = 9723


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: full name, kind, what it tells, and its labels with the values they take.

    The values of a label without any (an empty tuple) come from who makes the metrics.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()


#: What the part `network` compares with the site.
NETWORK_KINDS = ("address", "route", "rule", "forwarding", "link", "xfrm")
QUEUES = ("devices", "events", "clients", "rate", "event")

METRICS = (
    Metric(
        "sekisho_agent_heartbeat_timestamp_seconds",
        "gauge",
        "Unix time of the last turn of the agent's loop.",
    ),
    Metric(
        "sekisho_agent_start_timestamp_seconds", "gauge", "Unix time at which the agent started."
    ),
    Metric(
        "sekisho_agent_errors_total",
        "counter",
        "Failures of a part of the agent; it went on.",
        (("part", ()),),
    ),
    Metric(
        "sekisho_agent_part_up",
        "gauge",
        "1 while a part of the agent does its work, 0 while it cannot, or has not looked in time.",
        (("part", ()),),
    ),
    Metric(
        "sekisho_agent_dropped_total",
        "counter",
        "Events that a bounded queue did not take.",
        (("queue", QUEUES),),
    ),
    Metric("sekisho_agent_resident_bytes", "gauge", "Memory of the agent that is in RAM."),
    Metric("sekisho_agent_cpu_seconds_total", "counter", "Processor time the agent has used."),
    Metric("sekisho_agent_lag_seconds", "gauge", "How late the loop's last timer was."),
    Metric(
        "sekisho_agent_info",
        "gauge",
        "1, with the agent's version.",
        (("version", ()),),
    ),
    Metric("sekisho_policy_serial", "gauge", "Serial of the site policy in force; 0 without one."),
    Metric(
        "sekisho_policy_fallback",
        "gauge",
        "1 while the policy in /etc/sekisho is refused and the last good one stays in force.",
    ),
    Metric(
        "sekisho_policy_refused_total",
        "counter",
        "Policies refused: unsigned, older, another host's, garbled.",
    ),
    Metric(
        "sekisho_journal_records_total",
        "counter",
        "Records written into the journal since the agent started.",
    ),
    Metric("sekisho_journal_last_number", "gauge", "Number of the journal's last record."),
    Metric("sekisho_journal_unsealed_records", "gauge", "Records since the last seal."),
    Metric(
        "sekisho_journal_last_seal_timestamp_seconds",
        "gauge",
        "Unix time of the last seal; 0 before the first.",
    ),
    Metric("sekisho_journal_lost_total", "counter", "Events the disk did not take."),
    Metric(
        "sekisho_journal_write_errors_total", "counter", "Failed writes and syncs of the journal."
    ),
    Metric(
        "sekisho_journal_repaired_total",
        "counter",
        "Torn ends found and repaired when the journal was opened.",
    ),
    Metric(
        "sekisho_journal_broken_total",
        "counter",
        "Places where the journal was found changed or cut when it was opened.",
    ),
    Metric(
        "sekisho_device_attempts_total",
        "counter",
        "Devices that came, by what was decided about them.",
        (("decision", DECISIONS), ("class", CLASSES)),
    ),
    Metric(
        "sekisho_devices_present",
        "gauge",
        "Devices attached now, by what was decided about them.",
        (("decision", DECISIONS), ("class", CLASSES)),
    ),
    Metric(
        "sekisho_device_let_in",
        "gauge",
        "USB devices attached now that the kernel lets work although the site does not list them.",
    ),
    Metric("sekisho_modules_shut", "gauge", "1 while the kernel takes no further module."),
    Metric(
        "sekisho_modules_open",
        "gauge",
        "1 while the kernel takes modules although the site says that it must not.",
    ),
    Metric(
        "sekisho_modules_missing",
        "gauge",
        "Modules of the site's list that could not be loaded at this boot.",
    ),
    Metric(
        "sekisho_modules_unlisted",
        "gauge",
        "Modules that were loaded when the wall was judged and are not in the site's list.",
    ),
    Metric(
        "sekisho_maintenance",
        "gauge",
        "1 while a maintenance order keeps this boot open to kernel modules.",
    ),
    Metric(
        "sekisho_exception_open",
        "gauge",
        "Device exceptions that stand open: by a proven order, without one, past their end.",
        (("state", ("proven", "unproven", "overdue")),),
    ),
    Metric(
        "sekisho_devices_dry_run",
        "gauge",
        "1 while this machine only tells of devices it would refuse, and refuses none.",
    ),
    Metric(
        "sekisho_disks_unlisted",
        "gauge",
        "Disks the kernel uses although the site does not name them as the machine's own.",
    ),
    Metric(
        "sekisho_nft_drift_total", "counter", "Times the loaded rules differed from the policy's."
    ),
    Metric("sekisho_nft_repairs_total", "counter", "Times the policy's rules were loaded again."),
    Metric("sekisho_nft_in_order", "gauge", "1 while the loaded rules are the policy's."),
    Metric(
        "sekisho_nft_last_check_timestamp_seconds",
        "gauge",
        "Unix time of the last comparison of the rules.",
    ),
    Metric(
        "sekisho_quarantine",
        "gauge",
        "1 while this host is quarantined: only the monitor and the console reach it.",
    ),
    Metric(
        "sekisho_network_drift_total",
        "counter",
        "Changes of the kernel's network that the site does not declare, and of what it does.",
        (("kind", NETWORK_KINDS),),
    ),
    Metric(
        "sekisho_network_off",
        "gauge",
        "What of the kernel's network is not as the site declares it now.",
        (("kind", NETWORK_KINDS),),
    ),
    Metric("sekisho_network_repairs_total", "counter", "Things of the network put right again."),
    Metric(
        "sekisho_file_drift",
        "gauge",
        "Guarded files that are not as they were agreed.",
        (("group", ("nftables", "udev", "modprobe", "sshd", "sudo", "audit", "sysctl", "units")),),
    ),
    Metric(
        "sekisho_listener_unexpected",
        "gauge",
        "Sockets that wait for connections and are not in the policy.",
        (("scope", ("network", "local")),),
    ),
    Metric("sekisho_listener_missing", "gauge", "Listeners of the policy nobody provides."),
    Metric(
        "sekisho_probe_socket_missing",
        "gauge",
        "1 while nobody listens on the auditors' socket: no audit reaches this host.",
    ),
    Metric(
        "sekisho_line_certificate_until_timestamp_seconds",
        "gauge",
        "Unix time at which the certificate of this host's encrypted lines ends; "
        "1 when there is none that can be read, 0 without such a line.",
    ),
    Metric(
        "sekisho_line_revocations_until_timestamp_seconds",
        "gauge",
        "Unix time until which this host's list of revoked certificates counts; "
        "1 when there is none that can be read, 0 without an encrypted line.",
    ),
    Metric("sekisho_activity_events_total", "counter", "Audit events read."),
    Metric(
        "sekisho_activity_commands_total",
        "counter",
        "Commands of logged-in persons written into the journal.",
    ),
    Metric(
        "sekisho_activity_malformed_total", "counter", "Lines of the audit log that are no records."
    ),
    Metric(
        "sekisho_activity_newest_timestamp_seconds",
        "gauge",
        "The kernel's time of the newest audit event read; 0 before any.",
    ),
    Metric("sekisho_audit_enabled", "gauge", "1 while the kernel's audit is switched on."),
    Metric("sekisho_audit_daemon", "gauge", "1 while a daemon takes the kernel's audit records."),
    Metric("sekisho_audit_backlog", "gauge", "Audit records that wait in the kernel."),
    Metric("sekisho_audit_lost_total", "counter", "Audit records the kernel says it lost."),
    Metric(
        "sekisho_audit_gaps_total",
        "counter",
        "Gaps in the audit records' numbers, and logs that went away unread.",
    ),
    Metric(
        "sekisho_detections_total",
        "counter",
        "Things noticed that should not happen, by check.",
        (("check", ()), ("severity", ("notice", "warning", "alert"))),
    ),
    Metric(
        "sekisho_detection_last_timestamp_seconds",
        "gauge",
        "Unix time of the last thing noticed, by check; 0 when never.",
        (("check", ()), ("severity", ("notice", "warning", "alert"))),
    ),
)


def reference(parts: Iterable[str]) -> str:
    """Return the reference page of the metrics, in Markdown; ``parts``: those of the agent."""
    open_ = {"check": "id of a check", "part": ", ".join(parts), "version": "of the package"}
    rows = []
    for metric in METRICS:
        labels = "; ".join(
            f"`{label}`: {', '.join(values) or open_[label]}" for label, values in metric.labels
        )
        rows.append(f"| `{metric.name}` | {metric.kind} | {metric.text} | {labels} |")
    head = f"""\
# Metrics of the agent

Made from `agent/sekisho/host/metrics_table.py` and the table of the agent's parts by
`python -m sekisho.host.agent.table`; a test compares.

Served as `https://<management address>:{PORT}/metrics`, TLS 1.3, only to a client that the policy
names as monitor, with a certificate of the site's CA for that address.

| metric | kind | meaning | labels |
|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"
