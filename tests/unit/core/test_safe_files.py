"""Safe operations in folders of others: links, kinds, identity, bounds; and the gate that asks."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from sekisho.core import safe_files
from sekisho.core.safe_files import Folder, UnsafeError, beside, pinned, set_aside
from sekisho.local.collect import read
from sekisho.local.secret_files import SECRETS, secret_ids
from sekisho.probes.model import Read

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that counts as root's alone, though it is below /tmp."""
    plain = safe_files._roots_alone
    tmp = os.stat("/tmp").st_ino
    above = {os.stat(one).st_ino for one in tmp_path.parents} | {tmp}
    monkeypatch.setattr(
        safe_files, "_roots_alone", lambda info: info.st_ino in above or plain(info)
    )
    return tmp_path


def odd_things(folder: Path) -> dict[str, str]:
    """Put one of each kind that is no regular file in a folder; returns name → kind."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "sock"))
    (folder / "dir").mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    return {"fifo": "a FIFO", "sock": "a socket", "dir": "a directory", "link": "a symbolic link",
            "dangling": "a symbolic link", "loop": "a symbolic link"}  # fmt: skip


@pytest.mark.process
def test_only_a_regular_file_is_ever_opened(tmp_path: Path) -> None:
    kinds = odd_things(tmp_path)
    if os.geteuid() == 0:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        kinds["null"] = "a character device"
    with Folder.open(str(tmp_path)) as folder:
        for name, kind in kinds.items():
            with pytest.raises(UnsafeError, match=kind):
                folder.read(name, 100)
            with pytest.raises(OSError, match="exists"):
                folder.create(name)


def test_a_file_longer_than_its_bound_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with Folder.open(str(tmp_path)) as folder:
        with pytest.raises(UnsafeError) as caught:
            folder.read("sparse", 1000)
        assert caught.value.errno == errno.EFBIG


def test_no_link_is_followed_where_others_can_make_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    (tmp_path / "way").symlink_to("real")
    for path in ("way", "way/", "way/.", "way/../way"):
        with pytest.raises(UnsafeError):
            Folder.open(f"{tmp_path}/{path}")
    with pytest.raises(UnsafeError), pinned(f"{tmp_path}/way/file"):
        pass
    with pytest.raises(UnsafeError), beside(f"{tmp_path}/way/new"):
        pass
    with Folder.open(str(tmp_path)) as folder, pytest.raises(UnsafeError):
        folder.enter("way")
    with pinned(f"{tmp_path}/way") as found:
        assert found.target() == "real"


def test_a_link_that_root_alone_can_have_made_is_followed(roots: Path) -> None:
    (roots / "a/real").mkdir(parents=True)
    (roots / "a/real/file").write_text("x")
    (roots / "way").symlink_to("a/real")
    (roots / "back").symlink_to("way/../real/./file")
    (roots / "far").symlink_to(roots / "way/file")
    (roots / "loop").symlink_to("loop")
    with Folder.open(str(roots / "way")) as folder:
        assert (folder.path, folder.alone) == (str(roots / "a/real"), True)
    with Folder.open(str(roots)) as folder:
        for name in ("back", "far"):
            there, last = folder.follow(name)
            with there, last:
                assert last.read(10) == b"x"
        with pytest.raises(UnsafeError):
            folder.enter("loop")
    with pytest.raises(UnsafeError):
        Folder.open(str(roots / "way"), links=False)


@needs_root
@pytest.mark.parametrize(("uid", "mode"), [(NOBODY, 0o755), (0, 0o1777), (0, 0o775), (0, 0o757)])
def test_whose_folder_it_is_decides(roots: Path, uid: int, mode: int) -> None:
    theirs = roots / "theirs"
    (theirs / "real").mkdir(parents=True)
    (theirs / "way").symlink_to("real")
    (theirs / "below").mkdir()
    (theirs / "below/way").symlink_to("../real")
    os.chown(theirs, uid, 5)
    theirs.chmod(mode)
    for path in ("way", "below/way"):
        with pytest.raises(UnsafeError):
            Folder.open(str(theirs / path))


def test_names_with_a_way_in_them_are_refused(tmp_path: Path) -> None:
    with Folder.open(str(tmp_path)) as folder:
        for name in ("", ".", "..", "a/b", "/etc/passwd", "a\0b"):
            for act in (folder.pin, folder.create, folder.unlink, folder.sub, folder.make):
                with pytest.raises(UnsafeError):
                    act(name)


@needs_root
def test_what_is_changed_is_what_was_examined(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "other").write_text("y")
    judged = os.lstat(tmp_path / "mine")
    with pinned(str(tmp_path / "mine")) as found:
        found.expect(judged)
        os.replace(tmp_path / "other", tmp_path / "mine")  # moved meanwhile
        found.set_mode(0o600)
        found.set_owner(NOBODY, NOBODY)
    info = os.lstat(tmp_path / "mine")
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (os.geteuid(), 0o644)
    with pinned(str(tmp_path / "mine")) as found, pytest.raises(UnsafeError):
        found.expect(judged)
    (tmp_path / "link").symlink_to("mine")
    with pinned(str(tmp_path / "link")) as found:
        found.set_owner(NOBODY, NOBODY)
        with pytest.raises(UnsafeError):
            found.set_mode(0o777)
    assert os.lstat(tmp_path / "link").st_uid == NOBODY
    assert os.lstat(tmp_path / "mine").st_uid == os.geteuid()


def test_writing_takes_a_name_whatever_had_it(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "file").symlink_to("victim")
    os.mkfifo(tmp_path / "pipe")
    with Folder.open(str(tmp_path)) as folder:
        for name in ("file", "pipe", "new"):
            folder.write(name, b"data", 0o640)
            info = folder.stat(name)
            assert info is not None
            assert stat.filemode(info.st_mode) == "-rw-r-----"
            assert folder.read(name, 10) == b"data"
        (tmp_path / "dir").mkdir()
        with pytest.raises(IsADirectoryError):
            folder.write("dir", b"data", 0o640)
        assert folder.names() == ["dir", "file", "new", "pipe", "victim"]
    assert (tmp_path / "victim").read_text() == "keep"


@pytest.mark.process
def test_what_is_set_aside_goes_to_the_shelf_also_across_file_systems(tmp_path: Path) -> None:
    shelf = Path("/dev/shm") / f"sekisho-test-{os.getpid()}"
    try:
        for place in (tmp_path / "shelf", shelf):
            (tmp_path / "it/inner").mkdir(parents=True)
            (tmp_path / "it/inner/file").write_text("x")
            (tmp_path / "it/link").symlink_to("/etc/shadow")
            os.mkfifo(tmp_path / "it/pipe")
            set_aside(str(tmp_path / "it"), str(place))
            assert not (tmp_path / "it").exists()
            (kept,) = place.iterdir()
            assert kept.name.endswith("%it")
            assert (kept / "inner/file").read_text() == "x"
            assert (kept / "link").readlink() == Path("/etc/shadow")
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
    finally:
        with Folder.open("/dev/shm") as folder:
            folder.remove_tree(shelf.name)


# -- what the collector gives ---------------------------------------------------------------------


def entry(path: Path) -> dict[str, object]:
    found = read(Read((str(path),)))["files"]
    assert list(found) == [str(path)]
    return dict(found[str(path)])


def test_a_link_of_others_is_told_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").symlink_to(tmp_path / "secret")
    told = entry(home / ".ssh/authorized_keys")
    assert told["kind"] == "link"
    assert told["target"] == str(tmp_path / "secret")
    assert "text" not in told
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/authorized_keys").write_text("the secret")
    (tmp_path / "homes/x").mkdir(parents=True)
    (tmp_path / "homes/x/.ssh").symlink_to(tmp_path / "elsewhere")
    found = read(Read((f"{tmp_path}/homes/*/.ssh/authorized_keys",)))["files"]
    told = found[f"{tmp_path}/homes/x/.ssh/authorized_keys"]
    assert told["kind"] == "link"
    assert "the secret" not in str(found)
    found = read(Read((f"{tmp_path}/homes/*/.ssh/*",), content=False))["files"]
    assert list(found) == [f"{tmp_path}/homes/x/.ssh"]  # not the names behind it


def test_a_link_of_roots_is_followed(roots: Path) -> None:
    (roots / "real.conf").write_text("x=1\n")
    (roots / "a.conf").symlink_to("real.conf")
    assert entry(roots / "a.conf")["text"] == "x=1\n"


@needs_root
@pytest.mark.parametrize("how", ["several names", "another owner"])
def test_a_file_that_may_be_anothers_is_not_given(tmp_path: Path, how: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "secret").chmod(0o600)
    if how == "several names":
        os.link(tmp_path / "secret", home / "file")
        os.chown(home / "file", NOBODY, NOBODY)
    else:
        os.rename(tmp_path / "secret", home / "file")
    os.chown(home, NOBODY, NOBODY)
    told = entry(home / "file")
    assert how in str(told["error"])
    assert "text" not in told
    (home / "own").write_text("own")
    os.chown(home / "own", NOBODY, NOBODY)
    assert entry(home / "own")["text"] == "own"


@pytest.mark.process
def test_nothing_but_files_is_opened_by_the_collector(tmp_path: Path) -> None:
    kinds = odd_things(tmp_path)
    if os.geteuid() == 0:
        os.mknod(tmp_path / "tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
        kinds["tty"] = "a character device"
    for name in kinds:
        assert "text" not in entry(tmp_path / name)
    assert "text" not in entry(Path("/dev/null"))


def test_secrets_are_known_by_name_and_by_inode(roots: Path) -> None:
    for name in ("host.key.pem", "line.key.pem", ".ssh/id_ed25519"):
        (roots / name).parent.mkdir(exist_ok=True)
        (roots / name).write_text("the secret")
        assert entry(roots / name)["error"] == "its content is secret"
    (roots / ".ssh/id_ed25519.pub").write_text("public")
    assert entry(roots / ".ssh/id_ed25519.pub")["text"] == "public"
    (roots / "x").write_text("the secret")
    os.link(roots / "x", roots / "harmless")
    info = (roots / "x").stat()
    told = read(Read((str(roots / "harmless"),)), {(info.st_dev, info.st_ino)})["files"]
    assert told[str(roots / "harmless")]["error"] == "its content is secret"


@needs_root
def test_the_secrets_of_this_machine_are_recognised() -> None:
    ids = secret_ids()
    for path in ("/etc/shadow", "/etc/gshadow"):
        info = os.stat(path)
        assert (info.st_dev, info.st_ino) in ids
        assert entry(Path(path))["error"] == "its content is secret"


def test_private_keys_and_secret_values_are_left_out(roots: Path) -> None:
    (roots / "a.conf").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    assert "text" not in entry(roots / "a.conf")
    (roots / "b.netdev").write_text(
        "[WireGuard]\nPrivateKey = c2VjcmV0\n\tPresharedKey=c2VjcmV0\nPrivateKeyFile=/etc/k\n"
        '  secret = "c2VjcmV0"\npassword_pbkdf2 root c2VjcmV0\nauth password c2VjcmV0-is-no-value\n'
    )
    text = str(entry(roots / "b.netdev")["text"])
    assert text.count("c2VjcmV0") == 1
    assert text.count("(withheld)") == 4
    assert "PrivateKeyFile=/etc/k" in text


def test_the_list_of_secrets_names_what_the_accounts_role_closes(repository: Path) -> None:
    module = (repository / "playbooks/library/sekisho_accounts.py").read_text()
    for name in ("shadow", "gshadow", "opasswd", "ssh_host_*_key"):
        assert name in module
        assert any(name in pattern for pattern in SECRETS)
