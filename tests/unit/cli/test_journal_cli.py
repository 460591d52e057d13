"""`sekisho verify` on a journal, and handing events in over the socket."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sekisho.cli.verify_journal import verify_journal
from sekisho.core.errors import SekishoError
from sekisho.host.journal.client import submit
from sekisho.host.journal.options import Options
from sekisho.host.journal.store import JournalWriter
from sekisho.local.journal_files import read_private_key

KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return a closed journal of a few records, its head and public key beside it."""
    place = tmp_path / "journal"
    writer = JournalWriter.open(place, "core-1", "b", KEY, options=Options(background=False))
    for number in range(20):
        writer.append("e", {"number": number})
    writer.close()
    (tmp_path / "head.json").write_bytes((place / "head.json").read_bytes())
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(public)
    return place


def judge(journal: Path, *, head: bool = True, as_json: bool = False) -> int:
    beside = journal.parent
    return verify_journal(
        journal, beside / "key.pem", beside / "head.json" if head else None, json=as_json
    )


def test_a_whole_journal_passes_only_with_a_head_from_elsewhere(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(journal) == 0
    assert "completeness 網羅性: pass 適合" in capsys.readouterr().out
    assert judge(journal, head=False) == 2
    assert "could not tell 判定不能" in capsys.readouterr().out


def test_an_edited_record_is_named_with_file_line_and_number(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = next(journal.glob("*.jsonl"))
    raw = segment.read_bytes()
    segment.write_bytes(raw.replace(b'"number":7', b'"number":8', 1))
    assert judge(journal) == 1
    assert f"{segment.name}:9 (n=9): altered" in capsys.readouterr().out
    assert judge(journal, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["findings"][0]["n"], told["integrity"], told["exit_code"]) == (9, "fail", 1)


def test_a_journal_cut_short_fails_with_the_head_and_is_never_passed_without(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = next(journal.glob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:10]))
    assert judge(journal) == 1
    assert "its end was cut off" in capsys.readouterr().out
    assert judge(journal, head=False) == 1  # its own head is enough to convict it
    (journal / "head.json").unlink()
    assert judge(journal, head=False) == 2


def test_an_older_head_does_not_hide_the_journals_own(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = JournalWriter.open(journal, "core-1", "b", KEY, options=Options(background=False))
    writer.append("usb.inserted", {"what": "a stick"})
    writer.close()
    assert judge(journal) == 0
    assert "complete up to n=22" in capsys.readouterr().out
    segment = next(journal.glob("*.jsonl"))
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:22]))
    assert judge(journal) == 1
    assert "the journal's own head.json says it had n=" in capsys.readouterr().out
    (journal / "head.json").unlink()
    (journal / "head.json").mkdir()  # what cannot be read is no head
    assert judge(journal) == 1
    (journal / "head.json").rmdir()
    assert judge(journal) == 0  # complete up to the head that was carried away, and no further


def test_a_journal_whose_segments_are_all_gone_is_a_breach(journal: Path) -> None:
    for path in journal.glob("*.jsonl"):
        path.unlink()
    assert judge(journal, head=False) == 1
    assert judge(journal) == 1


def test_an_escape_sequence_in_a_journal_does_not_reach_the_terminal(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = next(journal.glob("*.jsonl"))
    with segment.open("ab") as stream:
        stream.write(b'{"\x1b[2J\n')
    assert judge(journal) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_input_that_cannot_be_judged_is_exit_code_three(journal: Path, tmp_path: Path) -> None:
    beside = journal.parent
    assert verify_journal(tmp_path / "none", beside / "key.pem", None, json=False) == 3
    (tmp_path / "empty").mkdir()
    assert verify_journal(tmp_path / "empty", beside / "key.pem", None, json=False) == 3
    assert verify_journal(journal, beside / "head.json", None, json=False) == 3
    assert verify_journal(journal, beside / "none", None, json=False) == 3
    assert verify_journal(journal, beside / "key.pem", beside / "none", json=False) == 3


def test_only_a_p384_key_is_taken(tmp_path: Path) -> None:
    for name, key in (("right", KEY), ("wrong", ec.generate_private_key(ec.SECP256R1()))):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / name).write_bytes(pem)
    assert read_private_key(tmp_path / "right").curve.name == "secp384r1"
    with pytest.raises(SekishoError, match="another kind"):
        read_private_key(tmp_path / "wrong")


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b'{"n":17}', 17), (b'{"error":"no"}', None), (b"?", None), (b"", None), (None, None)],
)
def test_an_event_is_kept_only_when_the_writer_says_so(
    tmp_path: Path, answer: bytes | None, number: int | None
) -> None:
    path = tmp_path / "journal.sock"
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                seen.append(link.recv(100_000))
                if answer is not None:
                    link.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        if number is None:
            with pytest.raises(SekishoError):
                submit("transfer.received", {"delivery": "x"}, 2.0, path=path)
        else:
            assert submit("transfer.received", {"delivery": "x"}, 2.0, path=path) == number
        thread.join(5)
    assert seen == [b'{"data":{"delivery":"x"},"kind":"transfer.received"}']


def test_without_a_writer_an_event_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="does not answer"):
        submit("transfer.received", {}, 1.0, path=tmp_path / "none.sock")
