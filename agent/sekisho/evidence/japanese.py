"""What a finding expected and observed, in Japanese. Pure.

`findings.json` holds one text, which is English: it is the record, and judging again gives it byte
for byte. The report's Japanese half says the same by this table. A template is text with ``{}`` for
what comes from the host, which is carried over unchanged; a text of no template is shown as it is.
A corpus test holds the table against every message the readers of facts can give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sekisho.catalogue.judge import UNKNOWN
from sekisho.catalogue.model import Op

_OPS: Mapping[str, str] = {
    Op.EQUALS: "が{}である",
    Op.NOT_EQUALS: "が{}でない",
    Op.ONE_OF: "が{}のいずれかである",
    Op.AT_LEAST: "が{}以上である",
    Op.AT_MOST: "が{}以下である",
    Op.MATCHES: "が正規表現{}に一致する",
    Op.CONTAINS: "が{}をすべて含む",
    Op.LACKS: "が{}をどれも含まない",
    Op.SUBSET_OF: "が{}の範囲内である",
    Op.SAME_SET: "が{}と過不足なく一致する",
    Op.EMPTY: "が空である",
    Op.PRESENT: "が存在する",
    Op.ABSENT: "が存在しない",
    Op.PROVEN: "は宣言したもの以外を通さないと証明できる",
}

#: What stands before an observed value: which half of a setting holds.
_HALVES = {
    "in force now, not kept over a boot: ": "現在は有効だが、再起動後は保たれない：",
    "will hold after a boot, not in force now: ": "再起動後は有効だが、現在は有効でない：",
}

#: English templates and their Japanese, the more special ones first.
_OBSERVED = (
    ("not set (default: {})", "設定なし（既定値：{}）"),
    ("not set", "設定なし"),
    ("absent", "存在しない"),
    ("none", "なし"),
    ("proven", "証明済み"),
    ("not masked: {}", "マスクされていない：{}"),
    ("not enabled: {}", "有効化されていない：{}"),
    ("not running: {}", "動作していない：{}"),
    (
        "not on the next boot's kernel command line: {}",
        "次回起動時のカーネルコマンドラインにない：{}",
    ),
    ("masked: {}", "マスクされている：{}"),
    ("running: {}", "動作中：{}"),
    ("installed: {}", "導入済み：{}"),
    ("not blocked by modprobe.d: {}", "modprobe.dで禁止されていない：{}"),
    ("can be loaded: {}", "読み込み可能：{}"),
    ("loaded: {}", "読み込み済み：{}"),
    ("missing: {}", "不足：{}"),
    ("there: {}", "存在する：{}"),
    ("not allowed: {}", "許可されていない：{}"),
    (
        "undeclared packets pass by no rule: none stops them",
        "宣言していないパケットが通る（止めるルールがない）",
    ),
    ("undeclared packets pass by {}", "宣言していないパケットが通るルール：{}"),
)

_EXPECTED = (
    ("an answer", "応答があること"),
    ("a role", "役割が定まっていること"),
    ("at least one assertion", "確認内容が一つ以上あること"),
)

#: Why something could not be told; what the machine's own tools said stays as they said it.
_REASONS = (
    ("this machine has no site policy to compare with", "比較すべきサイトの方針がこの機械にない"),
    ("the policy: {}", "方針：{}"),
    ("the site policy has no {}", "サイトの方針に{}がない"),
    ("the site policy has {}", "サイトの方針には{}がある"),
    ("this machine has no role", "この機械の役割が定まっていない"),
    ("the host sent no facts", "機械からデータが届いていない"),
    ("the host sent no outcome", "機械から結果が届いていない"),
    ("the outcome is garbled: {}", "結果の形式が正しくない：{}"),
    ("the raw facts have no known schema", "生データの版が不明である"),
    ("the raw facts hold no probes", "生データに収集結果がない"),
    ("the reader failed: {}: {}", "読み取りプログラムの異常：{}：{}"),
    ("the prover failed: {}: {}", "証明器の異常：{}：{}"),
    ("no probe is named {}", "収集項目{}は存在しない"),
    ("probe {} gave no answer", "収集項目{}の結果がない"),
    ("nothing is expected, so every host would pass", "期待する値が空で、何でも適合してしまう"),
    (
        "judged without a solver (z3, of the control side's packages)",
        "ソルバ（管理側のz3）なしで判定した",
    ),
    (
        "observed has {} characters; at most {} are matched",
        "実際の値が{}文字あり、照合の上限{}を超える",
    ),
    ("observed is {}, not a list", "実際の値が一覧でなく{}である"),
    ("expected is {}, not a list", "期待する値が一覧でなく{}である"),
    ("expected is {}", "期待する値が不正である：{}"),
    ("{} compares no value", "{}は値を比較しない"),
    ("{} is {}, not a list", "{}が一覧でなく{}である"),
    ("{} is {}, not a number", "{}が数でなく{}である"),
    ("{} is {}, not text", "{}が文字列でなく{}である"),
    ("{} is not a number: {}", "{}が数でない：{}"),
    ("no connection within {} s", "{}秒以内に接続できない"),
    ("no answer within {} s", "{}秒以内に応答がない"),
    ("{}: Permission denied", "{}：権限がなく読めない"),
    ("{}: permission denied", "{}：権限がなく読めない"),
    ("{}: No such file or directory", "{}：ファイルがない"),
    (
        "{}: no such file: the kernel's network is not shown",
        "{}：ファイルがなく、カーネルのネットワークが見えない",
    ),
    ("{}: no such file", "{}：ファイルがない"),
    ("{}: no such command", "{}：コマンドがない"),
    ("{}: {} is not installed", "{}：{}が導入されていない"),
    ("{}: no content", "{}：内容が読めない"),
    ("{}: no metadata", "{}：属性が読めない"),
    ("{}: not readable", "{}：読めない"),
    ("{}: not there", "{}：存在しない"),
    ("{}: not a link", "{}：リンクではない"),
    ("{}: not a regular file", "{}：通常ファイルではない"),
    ("{}: included in itself", "{}：自分自身を取り込んでいる"),
    ("{}: no outcome", "{}：結果がない"),
    ("{}: outcome is garbled", "{}：結果の形式が正しくない"),
    ("{}: output was cut at {} bytes", "{}：出力が{}バイトで打ち切られた"),
    ("{}: exit status {}: {}", "{}：終了コード{}：{}"),
    ("{}: exit status {}", "{}：終了コード{}"),
    ("{}: garbled entry ({})", "{}：項目の形式が正しくない（{}）"),
    ("{}: garbled entry", "{}：項目の形式が正しくない"),
    ("{}: a garbled line", "{}：行の形式が正しくない"),
    ("{}: garbled line {}", "{}：行の形式が正しくない：{}"),
    ("{}: garbled JSON", "{}：JSONの形式が正しくない"),
    ("{}: garbled ({})", "{}：形式が正しくない（{}）"),
    ("{}: not libnftables JSON", "{}：libnftablesのJSONではない"),
    ("{}: no JSON", "{}：JSONではない"),
    ("{}: not a list of objects", "{}：オブジェクトの一覧ではない"),
    ("{}: {}, not an object", "{}：オブジェクトでなく{}である"),
    ("{}: no policy", "{}：方針がない"),
    ("{}: no time", "{}：時刻が読めない"),
    ("{}: not a time: {}", "{}：時刻ではない：{}"),
    ("{}: {} is not a day", "{}：日付ではない：{}"),
    ("{}: not a line of it: {}", "{}：行の形式が正しくない：{}"),
    ("{}: not a kernel's line: {}", "{}：カーネルの表示ではない：{}"),
    ("{}: not a line of dpkg's lists: {}", "{}：dpkgの一覧の行ではない：{}"),
    ("{}: not a package: {}", "{}：パッケージの行ではない：{}"),
    ("{}: not a source: {}", "{}：入手元の行ではない：{}"),
    ("{}: not a field: {}", "{}：欄ではない：{}"),
    ("{}: not an entry: {}", "{}：項目ではない：{}"),
    ("{}: not an option: {}", "{}：オプションではない：{}"),
    ("{}: not a setting: {}", "{}：設定ではない：{}"),
    ("{}: not a record: {}", "{}：記録ではない：{}"),
    ("{}: not a status: {}", "{}：状態の行ではない：{}"),
    ("{}: not a digest: {}", "{}：ダイジェストではない：{}"),
    ("{}: not a group: {}", "{}：グループの行ではない：{}"),
    ("{}: not an account: {}", "{}：アカウントの行ではない：{}"),
    ("{}: {} is no setting", "{}：設定ではない：{}"),
    ("{}: {} is not set", "{}：{}が設定されていない"),
    ("{}: {} is no number of seconds", "{}：秒数ではない：{}"),
    ("{}: {} is a setting and a section", "{}：{}が設定でもあり節でもある"),
    ("{}: {} is unknown", "{}：{}は未知である"),
    ("{}: nothing after {}", "{}：{}の後に何もない"),
    ("{} is no number: {}", "{}が数でない：{}"),
    ("{}: {} fields where {} were expected", "{}：欄が{}個ある（期待は{}個）"),
    ("{}: a line of fewer than {} fields", "{}：欄が{}個に満たない行がある"),
    ("{}: not one line of {} fields", "{}：欄が{}個の一行ではない"),
    (
        "{}: a kernel command line of more than {} characters",
        "{}：カーネルコマンドラインが{}文字を超える",
    ),
    ("{}: a package without all its fields: {}", "{}：欄の欠けたパッケージがある：{}"),
    ("{}: a section does not end", "{}：終わらない節がある"),
    ("{}: a section ends that did not begin", "{}：始まりのない節が終わる"),
    ("{}: a source without URIs", "{}：URIsのない入手元がある"),
    ("{}: a policy without its selector", "{}：セレクタのないポリシーがある"),
    ("{}: includes {}, which was not collected", "{}：取り込む{}が収集されていない"),
    ("{}: the last diversion is cut", "{}：末尾の項目が切れている"),
    ("{}: the last record is cut", "{}：末尾の記録が切れている"),
    ("{}: {} are empty, or the list is cut", "{}：{}が空か、一覧が切れている"),
    ("{}: cut short: neither {} nor {}", "{}：出力が途中で切れ、{}も{}もない"),
    ("{}: neither {} nor {}", "{}：{}も{}もない"),
    (
        "{}: TMOUT depends on the order in which its files are read",
        "{}：TMOUTがファイルの読み込み順に依存する",
    ),
    ("{}: cannot evaluate TMOUT here: {}; expected {}", "{}：TMOUTを評価できない：{}（期待：{}）"),
    ("{}: cannot evaluate TMOUT here: {}", "{}：TMOUTを評価できない：{}"),
    ("{}: cannot evaluate TMOUT here", "{}：TMOUTを評価できない"),
    ("{}: cannot evaluate TMOUT: it reads {} as well", "{}：TMOUTを評価できない：{}も読み込む"),
    ("{}: cannot evaluate TMOUT: more than {} lines", "{}：TMOUTを評価できない：{}行を超える"),
    (
        "{}: cannot evaluate TMOUT: no loop over {} found",
        "{}：TMOUTを評価できない：{}を読む繰り返しがない",
    ),
    (
        (
            "{}: no package list of a security archive: run apt-get update, "
            "with a source of Debian-Security"
        ),
        (
            "{}：セキュリティ更新の一覧がない"
            "（Debian-Securityを入手元に加えてapt-get updateを実行する）"
        ),
    ),
    (
        "{}: the program behind {} is not shown; ask as root",
        "{}：{}のプログラムが見えない（rootで実行する）",
    ),
    ("{}: the walk did not run as root", "{}：走査がrootで行われていない"),
    (
        "{}: not even {} is writable: the walk did not run as root",
        "{}：{}すら書き込めない（走査がrootで行われていない）",
    ),
    ("{}: not even the loopback is listed", "{}：ループバックすらない"),
    ("{}: 0 has no name", "{}：0の名前がない"),
    ("{}: no package owns anything", "{}：どのパッケージにもファイルがない"),
    ("{}: no package at all", "{}：パッケージが一つもない"),
    ("{}: no root mount", "{}：ルートのマウントがない"),
    ("{}: no account", "{}：アカウントがない"),
    ("{}: no process", "{}：プロセスがない"),
    ("{}: no heading", "{}：見出しがない"),
    ("{}: none found", "{}：見つからない"),
    ("{}: nothing set", "{}：何も設定されていない"),
    ("{}: not one library", "{}：ライブラリが一つもない"),
    ("{}: not one variable", "{}：変数が一つもない"),
    ("{}: not one active unit", "{}：動作中のユニットが一つもない"),
    ("{}: empty", "{}：空である"),
    ("{}: leap status {}", "{}：うるう秒の状態が{}"),
    ("{}: stratum {}", "{}：stratumが{}"),
    ("{}: no {}", "{}：{}がない"),
    ("audit rule: {}: {}", "監査ルール：{}：{}"),
    ("{} is not there", "{}がない"),
    ("this machine shows no PCI function at all", "PCIの機能が一つも見えない"),
    ("this machine shows no disk at all, not even its own", "ディスクが一つも見えない"),
    ("no kernel image in /boot", "/bootにカーネルイメージがない"),
    ("no digest to compare", "比較すべきダイジェストがない"),
    ("no {}", "{}がない"),
)
_JOINT = "; "
#: What `sekisho.core.errors.printable` puts after a text it cut.
_CUT = re.compile(r"… \(([0-9]+) characters\)")


def expected_in(text: str, language: str) -> str:
    """Return what a finding expected, in a language."""
    if language == "en":
        return text
    return _cut("；".join(_expectation(part) for part in text.split(_JOINT)))


def observed_in(text: str, language: str) -> str:
    """Return what a finding observed, in a language."""
    if language == "en":
        return text
    return _cut("；".join(_observation(part) for part in text.split(_JOINT)))


def reason_in(text: str, language: str) -> str:
    """Return why something could not be told, in a language."""
    if language == "en":
        return text
    whole = by_template(text, tuple(one for one in _REASONS if _JOINT in one[0]))
    return _cut(
        whole if whole is not None else "；".join(_reason(one) for one in text.split(_JOINT))
    )


def by_template(text: str, table: tuple[tuple[str, str], ...]) -> str | None:
    """Return a text by the first template of a table that fits it, or None."""
    for template, other in table:
        held = _fit(text, template.split("{}"))
        if held is not None:
            first, *more = other.split("{}")
            return first + "".join(part + rest for part, rest in zip(held, more, strict=True))
    return None


def _cut(text: str) -> str:
    return _CUT.sub(r"…（\1文字）", text)


def _reason(text: str) -> str:
    found = by_template(text, _REASONS)
    return text if found is None else found


def _expectation(text: str) -> str:
    label, _, rest = text.partition(" ")
    op, _, value = rest.partition(" ")
    if op in _OPS and ":" in label:
        return f"{label} " + _OPS[op].replace("{}", f" {value} " if value else "")
    return by_template(text, _EXPECTED) or text


def _observation(text: str) -> str:
    label, _, rest = text.partition(" ")
    name = f"{label} " if ":" in label[:-1] and rest else ""
    seen = rest if name else text
    before = ""
    for half, ja in _HALVES.items():
        if seen.startswith(half):
            before, seen = ja, seen.removeprefix(half)
    if seen.startswith(UNKNOWN):
        return f"{name}{before}判定できない：{_reason(seen.removeprefix(UNKNOWN))}"
    return f"{name}{before}{by_template(seen, _OBSERVED) or seen}"


def _fit(text: str, parts: list[str]) -> list[str] | None:
    """Return what stands in the gaps between ``parts`` in ``text``, or None: first places first."""
    if not text.startswith(parts[0]):
        return None
    if len(parts) == 1:
        return [] if text == parts[0] else None
    at, held = len(parts[0]), []
    for part in parts[1:-1]:
        found = text.find(part, at)
        if found <= at:
            return None
        held.append(text[at:found])
        at = found + len(part)
    end = len(text) - len(parts[-1])
    if end <= at or not text.endswith(parts[-1]):
        return None
    return [*held, text[at:end]]
