"""Raw outcomes for probe tests, as `sekisho.local.collect` would return them."""

from __future__ import annotations

from typing import Any


def ran(stdout: str, *, rc: int = 0, **more: Any) -> dict[str, Any]:
    return {"rc": rc, "stdout": stdout, "stderr": "", "truncated": False, **more}


def held(texts: dict[str, str | None], **kinds: Any) -> dict[str, Any]:
    """Return a `Read`'s outcome: path → text; None is an entry without content."""
    return {
        "files": {
            path: {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file"}
            | ({"text": text} if text is not None else {})
            | kinds.get(path, {})
            for path, text in texts.items()
        }
    }


def link(target: str) -> dict[str, Any]:
    return {"mode": 0o777, "uid": 0, "gid": 0, "kind": "link", "target": target}


def unreadable(why: str = "Permission denied") -> dict[str, Any]:
    return {"mode": 0o600, "uid": 0, "gid": 0, "kind": "file", "error": why}


def owning(*paths: str, package: str = "bash:amd64", diversions: str = "") -> dict[str, Any]:
    """Return dpkg's record of one package's files."""
    lines = "".join(f"/var/lib/dpkg/info/{package}.list:{path}\n" for path in paths)
    return {
        "owners": ran(lines),
        "installed": ran("bash\t5.2\tii \ngone\t1\tun \n"),
        "diversions": held({"/var/lib/dpkg/diversions": diversions}),
    }
