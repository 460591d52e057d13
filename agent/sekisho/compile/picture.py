"""The topology as an SVG picture: data flows from left to right, management below. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from sekisho.site.model import MANAGEMENT, Flow, Kind, Link, Purpose, Role, Side, Site

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _TOP, _LEFT = 156, 78, 60, 34, 118, 40
_MOST = 6  # boxes per column; the rest is a count
_FONT = "font-family=\"'Noto Sans','Noto Sans CJK JP','IPAGothic',sans-serif\""
_FILL = {
    "peer": ("#f4f4f5", "#71717a"),
    Role.GATEWAY: ("#fff7ed", "#c2410c"),
    Role.INBOUND: ("#eff6ff", "#1d4ed8"),
    Role.CORE: ("#ecfdf5", "#047857"),
    Role.OUTBOUND: ("#eff6ff", "#1d4ed8"),
    Role.MONITOR: ("#faf5ff", "#7e22ce"),
    Role.TERMINAL: ("#fefce8", "#a16207"),
}
_COLUMNS = {
    "en": ("Providers", "Gateway in", "Inbound", "Core", "Outbound", "Gateway out", "Recipients"),
    "ja": ("提供元", "ゲートウェイ(入)", "受信", "管理", "送信", "ゲートウェイ(出)", "提供先"),
}
_MARKS = (("blue", "#2563eb", 4), ("black", "#18181b", 6), ("gold", "#a16207", 6))
_WORDS = {
    "ip-vpn": ("IP-VPN (outside)", "IP-VPN (外部)"),
    "dedicated": ("dedicated line", "専用線"),
    "ssh": ("terminal session (SSH)", "端末操作 (SSH)"),
    "management": ("management: SSH, metrics, time", "管理網: SSH・監視・時刻"),
    "note": ("replies carry no payload", "応答にペイロードなし"),
    "more": ("more", "他"),
}


class _Picture:
    def __init__(self, site: Site, language: str) -> None:
        self.site = site
        self.language = language
        self.parts: list[str] = []
        self.places: dict[str, tuple[int, int]] = {}
        self.bottom = 0

    def say(self, word: str) -> str:
        """Return a word of the legend in the language asked for."""
        return self.both(*_WORDS[word])

    def both(self, en: str, ja: str) -> str:
        if self.language == "both":
            return en if en == ja else f"{en} / {ja}"
        return ja if self.language == "ja" else en

    def text(  # noqa: PLR0913 - where, what, how
        self,
        x: int,
        y: int,
        words: str,
        *,
        size: int = 12,
        bold: bool = False,
        colour: str = "#18181b",
        anchor: str = "middle",
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
            f"{weight}>{escape(words)}</text>"
        )

    def line(self, points: Sequence[tuple[int, int]], style: str) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" {style}/>')

    def box(self, name: str, kind: str | Role, lines: Sequence[str], x: int, y: int) -> None:
        fill, stroke = _FILL[kind]
        self.places[name] = (x, y)
        self.bottom = max(self.bottom, y + _BOX_H)
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{_BOX_W}" height="{_BOX_H}" rx="8" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        )
        self.text(x + _BOX_W // 2, y + 20, _cut(name, 20), size=14, bold=True, colour=stroke)
        for index, words in enumerate(lines):
            self.text(x + _BOX_W // 2, y + 38 + 16 * index, _cut(words, 27), size=11)

    def column(self, index: int, names: Sequence[str]) -> None:
        x = _LEFT + index * (_BOX_W + _GAP_X)
        heading = self.both(_COLUMNS["en"][index], _COLUMNS["ja"][index])
        self.text(x + _BOX_W // 2, _TOP - 16, heading, size=12, colour="#52525b")
        for row, name in enumerate(names[:_MOST]):
            self.place(name, x, _TOP + row * (_BOX_H + _GAP_Y))
        if len(names) > _MOST:
            y = _TOP + _MOST * (_BOX_H + _GAP_Y) - _GAP_Y + 22
            self.bottom = max(self.bottom, y)
            count = f"+ {len(names) - _MOST} {self.say('more')}"
            self.text(x + _BOX_W // 2, y, count, colour="#52525b")

    def place(self, name: str, x: int, y: int) -> None:
        peer = self.site.peers.get(name)
        if peer is not None:
            lines = [*self.titles(peer.title.en, peer.title.ja), str(peer.address)]
            self.box(name, "peer", lines, x, y)
            return
        machine = self.site.machines[name]
        ours = machine.on(MANAGEMENT)
        lines = [
            *self.titles(machine.title.en, machine.title.ja),
            str(ours.address if ours else ""),
        ]
        self.box(name, machine.role, lines, x, y)

    def titles(self, en: str, ja: str) -> list[str]:
        if self.language == "both":
            return [en, ja]
        return [ja if self.language == "ja" else en]

    def flow(self, flow: Flow) -> None:
        steps = [flow.sender, *([flow.via] if flow.via else []), flow.receiver]
        for left, right in pairwise(steps):
            if left in self.places and right in self.places:
                self.arrow(left, right, self.site.links[self.site.joins[left, right]])

    def arrow(self, left: str, right: str, link: Link) -> None:
        x1, y1 = self.places[left]
        x2, y2 = self.places[right]
        start, end = (x1 + _BOX_W, y1 + _BOX_H // 2), (x2 - 7, y2 + _BOX_H // 2)
        # Each machine on the right has its own upright, so that two gateways' lines do not merge.
        row = (y2 - _TOP) // (_BOX_H + _GAP_Y)
        middle = end[0] - 16 - 9 * (row % 4)
        outside = link.kind is Kind.IP_VPN
        colour, width = ("#2563eb", 3) if outside else ("#18181b", 1.8)
        mark = "blue" if outside else "black"
        self.line(
            [start, (middle, start[1]), (middle, end[1]), end],
            f'stroke="{colour}" stroke-width="{width}" marker-end="url(#{mark})"',
        )


def _cut(words: str, most: int) -> str:
    wide = 0
    for index, letter in enumerate(words):
        wide += 2 if ord(letter) > 0x2E80 else 1
        if wide > most:
            return words[: index - 1] + "…"
    return words


def _sides(site: Site) -> list[list[str]]:
    """Return the names of every column, from the providers to the recipients."""
    gates: dict[Side, list[str]] = {Side.PROVIDER: [], Side.RECIPIENT: []}
    for gateway in site.of(Role.GATEWAY):
        for link in (site.links.get(one.link) for one in gateway.interfaces.values()):
            if link is not None and link.kind is Kind.IP_VPN:
                sides = {site.peers[name].side for name in link.between if name in site.peers}
                for side in sides:
                    if gateway.name not in gates[side]:
                        gates[side].append(gateway.name)
    return [
        [peer.name for peer in site.peers.values() if peer.side is Side.PROVIDER],
        gates[Side.PROVIDER],
        [machine.name for machine in site.of(Role.INBOUND)],
        [machine.name for machine in site.of(Role.CORE)],
        [machine.name for machine in site.of(Role.OUTBOUND)],
        gates[Side.RECIPIENT],
        [peer.name for peer in site.peers.values() if peer.side is Side.RECIPIENT],
    ]


def draw(site: Site, language: str = "both") -> str:
    """Return the SVG text of a sound site; ``language`` is en, ja or both."""
    picture = _Picture(site, language)
    for index, names in enumerate(_sides(site)):
        picture.column(index, names)
    for flow in site.flows.values():
        picture.flow(flow)
    _desk(picture)
    _management(picture)
    width = _LEFT * 2 + 7 * _BOX_W + 6 * _GAP_X
    height = _legend(picture, width)
    title = picture.both(site.title.en, site.title.ja)
    picture.text(width // 2, 42, title, size=22, bold=True)
    subtitle = f"{site.name} · {site.profile}"
    picture.text(width // 2, 66, subtitle, size=13, colour="#52525b")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" {_FONT}>\n'
        f"<title>{escape(title)}</title>\n"
        "<defs>"
        + "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="{size}" '
            f'markerHeight="{size}" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{colour}"/>'
            "</marker>"
            for name, colour, size in _MARKS
        )
        + f'</defs>\n<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(picture.parts)
        + "\n</svg>\n"
    )


def _desk(picture: _Picture) -> None:
    """Put the terminals below core, each with its session's arrow upwards."""
    site = picture.site
    for link in site.links.values():
        if link.purpose is not Purpose.TERMINAL:
            continue
        cores = [name for name in link.between if name in picture.places]
        terminals = [name for name in link.between if site.machines[name].role is Role.TERMINAL]
        if not cores:
            continue
        x, y = picture.places[cores[0]]
        below = y + _BOX_H + 56
        shown = terminals[:3]
        # Spread around core's column, clear of the boxes beside it.
        first = x - (len(shown) - 1) * (_BOX_W + 20) // 2
        below = max(below, picture.bottom + 40) if len(shown) > 1 else below
        for index, name in enumerate(shown):
            left = first + index * (_BOX_W + 20)
            picture.place(name, left, below)
            top, bend = (left + _BOX_W // 2, below), below - 18
            end = (x + _BOX_W // 2, y + _BOX_H + 7)
            picture.line(
                [top, (top[0], bend), (end[0], bend), end],
                'stroke="#a16207" stroke-width="1.8" stroke-dasharray="2 3" '
                'marker-end="url(#gold)"',
            )
        if len(terminals) > len(shown):
            count = f"+ {len(terminals) - len(shown)} {picture.say('more')}"
            right = first + len(shown) * (_BOX_W + 20)
            picture.text(right, below + _BOX_H // 2, count, anchor="start", colour="#52525b")


def _management(picture: _Picture) -> None:
    """Draw the management network as a dashed bus with the monitors on it."""
    site = picture.site
    bus = picture.bottom + 46
    ours = [name for name in picture.places if name in site.machines]
    xs = [picture.places[name][0] + 14 for name in ours]
    monitors = [machine.name for machine in site.of(Role.MONITOR)][:4]
    left = _LEFT + 5 * (_BOX_W + _GAP_X) - (len(monitors) - 1) * (_BOX_W + 20)
    style = 'stroke="#a78bfa" stroke-width="1.3" stroke-dasharray="5 4"'
    for name in ours:
        x, y = picture.places[name]
        picture.parts.insert(
            0, f'<line x1="{x + 14}" y1="{y + _BOX_H}" x2="{x + 14}" y2="{bus}" {style}/>'
        )
    for index, name in enumerate(monitors):
        x = left + index * (_BOX_W + 20)
        picture.place(name, x, bus + 26)
        xs.append(x + 14)
        picture.parts.append(
            f'<line x1="{x + 14}" y1="{bus}" x2="{x + 14}" y2="{bus + 26}" {style}/>'
        )
    if xs:
        picture.line([(min(xs), bus), (max(xs), bus)], style)
        words = f"{picture.say('management')}  {site.management.network}"
        picture.text(min(xs), bus + 18, words, anchor="start", colour="#7e22ce")


def _legend(picture: _Picture, width: int) -> int:
    y = picture.bottom + 44
    x = _LEFT
    for style, words in (
        ('stroke="#2563eb" stroke-width="3" marker-end="url(#blue)"', "ip-vpn"),
        ('stroke="#18181b" stroke-width="1.8" marker-end="url(#black)"', "dedicated"),
        ('stroke="#a16207" stroke-width="1.8" stroke-dasharray="2 3" marker-end="url(#gold)"',
         "ssh"),
    ):  # fmt: skip
        picture.line([(x, y - 4), (x + 34, y - 4)], style)
        said = picture.say(words)
        picture.text(x + 48, y, said, anchor="start")
        x += 80 + sum(12 if ord(letter) > 0x2E80 else 7 for letter in said)
    picture.text(width - _LEFT, y, picture.say("note"), anchor="end", colour="#52525b")
    return y + 24
