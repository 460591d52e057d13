"""Japanese of the whole tree: one word for one thing, none that is wrong, items as law cites them.

The list is what readers of Japanese found wrong or unnatural, each with the right expression.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.control.catalogue_files import load_catalogue
from sekisho.core.languages import cite, item_of

ROOT = Path(__file__).resolve().parents[2]
KANA = r"\u3040-\u30ff\u4e00-\u9fff"
JAPANESE = re.compile(f"[{KANA}]")
#: Expression → what to write instead. Patterns are matched in lines that hold Japanese.
FORBIDDEN = {
    r"台帳|記録簿|記録台帳": "監査ジャーナル (the journal); 帳簿 is the law's book of provision",
    r"拠点|施設(?!\))": "サイト; 施設 is a building in 6(iii)",
    r"この機器|(?<!周辺)機器(?!の持込み|の廃棄)": "デバイス (attached), 機械 (a computer)",
    r"関門": "ゲートウェイ, or 認可制御 of USB",
    r"命令書|保守命令": "承認書",
    r"ドライバー|コントローラー|プリンター|サーバー(?!ル)": "without the last long vowel: ドライバ",
    r"無い|待受(?!信)|全て": "ない, 待ち受け, すべて",
    r"証明書(?=\"?\}?,?\s*(?:$|#))": "証明（書面） for attested evidence",
    r"意図的に攻撃|攻撃を試み、失敗": "攻撃を試み、防がれることを確認した",
    r"改変または切断": "改変されたか、記録が欠落していた",
    r"行規律": "ラインディシプリン（回線規程）",
    r"橋渡し": "ブリッジ",
    r"機体": "装置",
    r"通信カード": "ネットワークカード",
    r"権限を貸す": "setuid/setgidプログラム",
    r"半開き": "ハーフオープン接続",
    r"中身": "ペイロード",
    r"生の事実|この束|束から": "収集した生データ, 証拠一式",
    r"入退(?!室)": "ログイン",
    r"合意時": "基準登録時",
    r"\}\} に注意|CHECK ?に注意": "を観測",
    r"過多のため事象": "イベント過多のため一部",
    r"他人に閉じ": "ホームディレクトリは本人以外に開かれていない",
    r"全員宛て": "ブロードキャスト宛てのICMPエコー要求",
    r"(?<!ドライバ)を読み込めない": "のドライバを読み込めない",
    r"サイトモデル": "サイト定義",
    r"宣言された流れ|流れごと": "フロー",
    r"モジュールの壁|カーネルの壁": "モジュール追加読み込みの禁止, カーネルでの制御",
    r"第[0-9]+条": "第六条, as cite() writes it",
    rf"[{KANA}]\s?[0-9]{{1,2}}\([ivx]+\)": "第六条第三号ハ, as cite() writes it",
    r"[0-9]{1,2}\([ivx]+\)(?:\([a-f]\)[1-9]?)?\s?[\u3040-\u309f]": "第六条第三号ハ",
    r"none 無|breach 不|unknown \?": "whole words, the same in every table",
}
#: Files whose Japanese is text on paper or screens in whole sentences: full-width punctuation.
PROSE = ("hardening/catalogue/", "hardening/checks/", "monitors/")


def lines() -> Iterator[tuple[str, int, str]]:
    """Yield every line of the tree's tracked files that holds Japanese."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in names:
        path = ROOT / name
        # Tests may hold what is wrong; an inventory's titles and people are its own.
        if not name or name.startswith(("tests/", "inventory/")) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if JAPANESE.search(line):
                yield name, number, line


@pytest.fixture(scope="module")
def japanese() -> list[tuple[str, int, str]]:
    found = list(lines())
    assert len(found) > 1000, "the Japanese of the tree was not found"
    return found


@pytest.mark.process
def test_no_line_holds_an_expression_that_is_wrong(japanese: list[tuple[str, int, str]]) -> None:
    patterns = [(re.compile(pattern), better) for pattern, better in FORBIDDEN.items()]
    wrong = [
        f"{name}:{number}: {found[0]!r}; write {better}: {line.strip()[:120]}"
        for name, number, line in japanese
        for pattern, better in patterns
        if (found := pattern.search(line))
    ]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


@pytest.mark.process
def test_items_are_cited_as_the_one_function_writes_them(
    japanese: list[tuple[str, int, str]],
) -> None:
    known = {item.id for item in load_catalogue(ROOT / "hardening").items}
    cited = re.compile(
        r"第[一二三四五六七八九十]+条(?:第[一二三四五六七八九十]+号[イロハニホヘト]?(?:[(（]\d[)）])?)?"
    )
    seen, wrong = 0, []
    for name, number, line in japanese:
        for found in cited.findall(line):
            if found in ("第六条", "第二条"):
                continue
            seen += 1
            item = item_of(found)
            if cite(item, "ja") != found or item not in known:
                wrong.append(f"{name}:{number}: {found}")
    assert seen > 100
    assert not wrong, "\n".join(wrong)


@pytest.mark.process
def test_japanese_prose_has_japanese_punctuation(japanese: list[tuple[str, int, str]]) -> None:
    half = re.compile(rf"[{KANA}]\s?\((?![1-9]\))|\((?=[^()]*[{KANA}])[^()]*\)|[{KANA}]: ?[{KANA}]")
    wrong = []
    for name, number, line in japanese:
        if not name.startswith(PROSE):
            continue
        bare = re.sub(r"`[^`]*`|\{\{[^}]*\}\}", "", line)
        if "monitors/tests" not in name and (found := half.search(bare)):
            wrong.append(f"{name}:{number}: {found[0]}: {line.strip()[:120]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("台帳が改変または切断されていた", "台帳"),
        ("6(iv)(d)1 の回線には", "6(iv)(d)1 の"),
        ("認定受託事業者は 6(v)(c) を除く", "は 6(v)"),
        ("第6条 適合状況", "第6条"),
        ("この機器は隔離中", "この機器"),
        ("赤外線を読み込めない", "を読み込めない"),
    ],
)
def test_the_list_finds_what_was_in_the_tree(text: str, pattern: str) -> None:
    found = [m[0] for one in FORBIDDEN if (m := re.search(one, text))]
    assert pattern in found
