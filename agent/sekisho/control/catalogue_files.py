"""Find and read the catalogue: a checkout's `hardening/`, or the compiled JSON of the package.

The privileged side never parses YAML: the .deb installs what `sekisho catalogue compile` wrote.
Order of search: the environment's ``SEKISHO_CATALOGUE`` (a folder or a compiled file), the
checkout beside the package, `/usr/share/sekisho/catalogue.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sekisho.catalogue.compiled import MAX_CATALOGUE_BYTES, Sources, from_json
from sekisho.catalogue.model import Catalogue
from sekisho.catalogue.parse import parse_catalogue
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.probes.registry import registry

INSTALLED = Path("/usr/share/sekisho/catalogue.json")
_MAX_FILE_BYTES = 256 * 1024
_MAX_ALIASES = 16


def checkout_root() -> Path | None:
    """Return the checkout this package lies in (`agent/sekisho/…` beside `hardening/`), or None."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "hardening" / "catalogue").is_dir() else None


def find_catalogue() -> Path:
    """Return the folder or compiled file to read; raise `SekishoError` when there is none."""
    told = os.environ.get("SEKISHO_CATALOGUE")
    if told:
        return Path(told)
    root = checkout_root()
    if root is not None:
        return root / "hardening"
    if INSTALLED.is_file():
        return INSTALLED
    raise SekishoError(
        "no catalogue found",
        (
            Problem(
                "SEKISHO_CATALOGUE",
                "",
                "nothing set",
                f"a checkout's hardening/ beside the package, or {INSTALLED}",
                hint="install the sekisho package, or set SEKISHO_CATALOGUE",
            ),
        ),
    )


def load_catalogue(
    path: Path | None = None, *, items: Iterable[str] = (), checks: Iterable[str] = ()
) -> Catalogue:
    """Return the catalogue, whole or only ``items`` (ids) or ``checks`` (ids).

    A part is digested as that part: its digest differs from the whole catalogue's.

    Raises:
        SekishoError: nothing found, a file that is not in order, an item or check that is unknown.

    """
    return parse_sources(load_sources(path, items=items, checks=checks))


def load_sources(
    path: Path | None = None, *, items: Iterable[str] = (), checks: Iterable[str] = ()
) -> Sources:
    """Return the raw items and checks, whole or in part; see `load_catalogue`."""
    sources = read_sources(path if path is not None else find_catalogue())
    wanted_items, wanted_checks = tuple(items), tuple(checks)
    if wanted_items or wanted_checks:
        return sources.only(wanted_items, wanted_checks)
    return sources


def parse_sources(sources: Sources) -> Catalogue:
    """Return the catalogue of raw items and checks; raise `SekishoError` with every problem."""
    return parse_catalogue(
        {name: load() for name, load in sources.items.items()},
        {name: load() for name, load in sources.checks.items()},
        frozenset(registry()),
    )


def read_sources(where: Path) -> Sources:
    """Return the raw items and checks found at ``where`` (a folder or a compiled file)."""
    if where.is_dir():
        return _from_folder(where)
    try:
        with where.open("rb") as handle:
            data = handle.read(MAX_CATALOGUE_BYTES + 1)
    except OSError as bad:
        raise SekishoError(
            "the catalogue cannot be read",
            (Problem(str(where), "", str(bad.strerror), "a compiled catalogue"),),
        ) from None
    return from_json(data, str(where))


def _from_folder(where: Path) -> Sources:
    items: dict[str, Callable[[], Any]] = {}
    checks: dict[str, Callable[[], Any]] = {}
    for file in sorted((where / "catalogue").glob("*.yml")):
        items[file.stem] = lambda file=file: read_yaml(file)  # type: ignore[misc]
    for folder in sorted((where / "checks").glob("*")):
        if folder.is_dir():
            file = folder / "check.yml"
            checks[folder.name] = lambda file=file: read_yaml(file)  # type: ignore[misc]
    return Sources(items=items, checks=checks)


def _few_aliases(yaml: Any, loader: Any, data: bytes) -> None:
    """Refuse aliases in what others stand for (ten lines unfold into gigabytes), and many."""
    anchored: list[bool] = []
    seen = 0
    for event in yaml.parse(data, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchored.append(event.anchor is not None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchored.pop()
        elif isinstance(event, yaml.AliasEvent):
            seen += 1
            if any(anchored) or seen > _MAX_ALIASES:
                line = event.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: an alias inside an anchor, or too many")


def read_yaml(file: Path) -> Any:
    """Return a YAML file's value; a key twice, a non-text key or bad YAML is a `SekishoError`."""
    import yaml  # noqa: PLC0415 - a server's audit reads JSON and never needs it

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc] # chosen at run time: C where it is built
        """Safe loading that refuses a key written twice."""

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text", key_node.start_mark
                )
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            found[key] = loader.construct_object(value_node, deep=True)
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        with file.open("rb") as handle:
            data = handle.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            told = f"more than {_MAX_FILE_BYTES} bytes"
            raise SekishoError(
                "the catalogue is not in order", (Problem(str(file), "", told, "fewer"),)
            )
        if b"&" in data:
            _few_aliases(yaml, base, data)
        value = yaml.load(data.decode("utf-8"), Loader=Loader)  # noqa: S506 - a SafeLoader
        return json.loads(json.dumps(value))  # JSON values only: no dates, no sets
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, RecursionError) as bad:
        told = " ".join(str(bad).split())
        raise SekishoError(
            "the catalogue is not in order",
            (Problem(str(file), "", printable(told, 240), "readable YAML"),),
        ) from None
