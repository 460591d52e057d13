"""`sekisho send` and `sekisho receive`: directories over the one-way hop."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from sekisho.core.errors import Problem, SekishoError, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from sekisho.host.transfer.deliver import Delivered
    from sekisho.host.transfer.outbox import Outbox
    from sekisho.host.transfer.send import Target

POLICY = Path("/etc/sekisho/policy.json")
INCOMING = Path("/var/lib/sekisho/incoming")
OUTGOING = Path("/var/lib/sekisho/outgoing")
PORT = 7601
MIB = 1024 * 1024
_CODES = {"stored": 0, "refused": 1, "could not tell": 2}
_WORDS = {"stored": "完了", "refused": "拒否", "could not tell": "判定不能"}


def _wrong(where: str, got: str, expected: str, hint: str = "") -> SekishoError:
    problem = Problem(where, "", got, expected, hint=hint)
    return SekishoError("the delivery has no way to go", (problem,))


def _from_policy(path: Path, to: str) -> tuple[str, str, str, int]:
    """Return (from, to, address, port) of the outgoing flow to ``to`` (a name or an address)."""
    from sekisho.core.files import read_bounded  # noqa: PLC0415 - not for every command
    from sekisho.policy.host_policy import MAX_BYTES, HostPolicy  # noqa: PLC0415 - same
    from sekisho.policy.parts import Hop  # noqa: PLC0415 - same

    try:
        policy = HostPolicy.parse(read_bounded(path, MAX_BYTES), str(path))
    except SekishoError as bad:
        raise SekishoError("the delivery has no way to go", bad.problems) from None
    names = []
    for flow in policy.flows:
        if not isinstance(flow, Hop) or flow.direction != "out" or flow.mode != "one-way-tcp":
            continue
        if to in {flow.peer, flow.peer_address}:
            return policy.host, flow.peer, flow.peer_address, flow.port
        names.append(flow.peer)
    raise _wrong(str(path), f"no flow to {printable(to)}", f"one of: {', '.join(names) or 'none'}")


def _way(
    to: str,
    policy: Path | None,
    address: str | None,
    port: int | None,
    sender: str | None,
) -> tuple[str, str, str, int]:
    if address is not None:
        if sender is None:
            raise _wrong("--from", "nothing", "the name of this side, with --address")
        return sender, to, address, port or PORT
    if policy is not None or POLICY.exists():
        found = _from_policy(policy or POLICY, to)
    else:
        got = f"only --to {printable(to)}"
        raise _wrong("sekisho send", got, "--address or --policy", "see sekisho send --help")
    return (sender or found[0], found[1], found[2], port or found[3])


def _state(given: Path | None) -> Path:
    import os  # noqa: PLC0415 - only here

    if given is not None:
        return given
    if OUTGOING.is_dir() and os.access(OUTGOING, os.W_OK):
        return OUTGOING
    return Path.home() / ".local/state/sekisho/outgoing"


def send(  # noqa: PLR0913, PLR0917 - the options of one command
    directory: Annotated[Path, typer.Argument(help="The directory to send.")],
    to: Annotated[str, typer.Option("--to", help="The receiving host or peer, by name.")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help=f"Find the way in a host's policy (default {POLICY})."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Send to this address; needs --from.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help=f"TCP port (default {PORT}).")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="Name of the sending side.")] = None,
    part_mib: Annotated[
        int, typer.Option("--part-mib", min=1, max=1024, help="Largest part, in MiB.")
    ] = 256,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where unfinished deliveries are remembered.")
    ] = None,
    tries: Annotated[
        int, typer.Option("--tries", min=1, max=4, help="How often an object is tried.")
    ] = 4,
    new: Annotated[
        bool, typer.Option("--new", help="Give up an unfinished delivery of this directory.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Push a directory over the one-way hop; resume it when it was begun before.

    Exit codes: 0 stored and verified by the receiver, 1 refused, 2 could not tell, 3 not sendable.
    """
    from sekisho.host.transfer.deliver import PAUSES, deliver  # noqa: PLC0415 - only to send
    from sekisho.host.transfer.files import find_files  # noqa: PLC0415 - same
    from sekisho.host.transfer.outbox import Job, open_outbox  # noqa: PLC0415 - same
    from sekisho.host.transfer.send import Target  # noqa: PLC0415 - same

    ours, theirs, place, number = _way(to, policy, address, port, sender)
    target = Target(place, number)
    if dry_run:
        found = find_files(directory)
        _list_files([(one.path, one.size) for one in found], target, as_json=json)
        return 0
    job = Job(directory, ours, theirs, part_mib * MIB)
    try:
        with (
            _Bar(quiet=json) as bar,
            open_outbox(
                _state(state),
                job,
                now=time.time_ns() // 1_000_000,
                fresh=new,
                progress=bar.count,
            ) as outbox,
        ):
            bar.sending(outbox)
            begin = time.monotonic()
            result = deliver(outbox, directory, target, bar.count, pauses=PAUSES[: tries - 1])
            seconds = time.monotonic() - begin
    except OSError as error:
        raise _wrong(str(directory), printable(str(error)), "readable files") from error
    _report(outbox, result, seconds, target, as_json=json)
    return _CODES[result.outcome.value]


def _list_files(found: list[tuple[str, int]], target: Target, *, as_json: bool) -> None:
    total = sum(size for _, size in found)
    if as_json:
        from sekisho.core.canonical import canonical  # noqa: PLC0415 - only here

        files = [{"path": path, "size": size} for path, size in found]
        value = {"files": files, "total": total, "address": target.address, "port": target.port}
        sys.stdout.write(canonical(value).decode() + "\n")
        return
    for path, size in found:
        sys.stdout.write(f"{size:>15,}  {path}\n")
    where = f"{target.address} port {target.port}"
    sys.stdout.write(f"{total:>15,}  bytes in {len(found)} files would go to {where}\n")


def _report(
    outbox: Outbox, result: Delivered, seconds: float, target: Target, *, as_json: bool
) -> None:
    manifest, word = outbox.manifest, result.outcome.value
    if as_json:
        from sekisho.core.canonical import canonical  # noqa: PLC0415 - only here

        value = {
            "outcome": word,
            "why": result.why,
            "delivery": manifest.delivery,
            "sequence": manifest.sequence,
            "from": manifest.sender,
            "to": manifest.recipient,
            "address": target.address,
            "port": target.port,
            "files": len(manifest.files),
            "total": manifest.total,
            "resumed": outbox.resumed,
            "parts_sent": result.parts_sent,
            "parts_confirmed_before": result.parts_held,
            "bytes_sent": result.bytes_sent,
            "milliseconds": int(seconds * 1000),
        }
        sys.stdout.write(canonical(value).decode() + "\n")
        return
    rate = result.bytes_sent / max(seconds, 1e-6) / 1e6
    lines = [
        (
            f"{word} {_WORDS[word]}: delivery {manifest.delivery} (number {manifest.sequence}) "
            f"from {manifest.sender} to {manifest.recipient}"
        ),
        (
            f"  {len(manifest.files)} files, {manifest.total:,} bytes; sent {result.parts_sent} "
            f"parts, {result.bytes_sent:,} bytes in {seconds:.1f} s ({rate:,.0f} MB/s)"
        ),
    ]
    if outbox.resumed:
        lines.append(f"  resumed: {result.parts_held} parts had been confirmed before")
    if result.why:
        lines.append(f"  {result.why}")
        lines.append(
            "  -> the same command goes on where it stopped; --new begins another delivery"
        )
    sys.stdout.write("\n".join(lines) + "\n")


class _Bar:
    """How far it is, on standard error: rate and time left; nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = None if quiet else _progress()
        self._task = self._progress.add_task("reading 読取", total=None) if self._progress else None

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def count(self, size: int) -> None:
        """Count bytes: read for their digests, or sent."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, size)

    def sending(self, outbox: Outbox) -> None:
        """Begin to count what is sent."""
        todo = sum(
            part.size for _, part in outbox.manifest.parts() if part.index not in outbox.confirmed
        )
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, total=todo, description="sending 送信")


def _progress() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - heavy
    from rich.progress import (  # noqa: PLC0415 - heavy
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def receive(  # noqa: PLR0913, PLR0917 - the options of one command
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Take addresses and peers from a policy.")
    ] = None,
    listen: Annotated[str | None, typer.Option("--listen", help="Address to listen on.")] = None,
    port: Annotated[int, typer.Option("--port", help="TCP port.")] = PORT,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", help="ADDRESS or NAME=ADDRESS that may push; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="This side's name; manifests must be to it.")
    ] = None,
    store: Annotated[Path, typer.Option("--store", help="Where deliveries arrive.")] = INCOMING,
    once: Annotated[bool, typer.Option("--once", help="Stop after one delivery.")] = False,
    without_journal: Annotated[
        bool,
        typer.Option("--no-journal", help="On a machine Sekisho does not manage: print events."),
    ] = False,
) -> int:
    """Receive directories over the one-way hop into STORE/complete; send nothing, ever.

    A delivery that the host's journal does not take is refused.
    """
    from sekisho.host.transfer.main import (  # noqa: PLC0415 - only to receive
        no_journal,
        plan_of_file,
        plan_of_words,
        run_receiver,
    )

    if policy is not None and listen is None:
        plan = plan_of_file(policy)
    elif listen is not None and policy is None:
        plan = plan_of_words(listen, port, peer or [], name)
    else:
        raise _wrong("sekisho receive", "neither or both", "--policy FILE, or --listen ADDRESS")
    if without_journal:
        journal: Any = no_journal
    else:
        from sekisho.host.journal.client import submit  # noqa: PLC0415 - only then

        journal = submit
    run_receiver(plan, store, journal, once=once)
    return 0
