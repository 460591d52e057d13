"""The words of a report, whole in English and whole in Japanese. Pure."""

from __future__ import annotations

from sekisho.catalogue.model import Verdict
from sekisho.core.languages import cite

Both = dict[str, str]

#: What a verdict is called, by language.
VERDICT_WORDS: dict[Verdict, Both] = {
    Verdict.PASS: {"en": "pass", "ja": "適合"},
    Verdict.FAIL: {"en": "breach", "ja": "不適合"},
    Verdict.ERROR: {"en": "could not tell", "ja": "判定不能"},
    Verdict.NOT_APPLICABLE: {"en": "not applicable", "ja": "対象外"},
    Verdict.WAIVED: {"en": "waived", "ja": "例外承認"},
}

#: The three kinds of evidence; they are never mixed.
KIND_WORDS: dict[str, Both] = {
    "machine": {"en": "machine", "ja": "機械による確認"},
    "exercise": {"en": "exercise", "ja": "演習"},
    "attested": {"en": "attested", "ja": "証明（書面）"},
}

#: Why a kind of evidence that an item asks for is not there.
MISSING_WORDS: dict[str, Both] = {
    "machine": {"en": "no machine check yet", "ja": "機械による確認が未実装"},
    "exercise": {"en": "no record of an exercise", "ja": "演習の記録がない"},
    "attested": {"en": "no signed statement", "ja": "署名した書面がない"},
}

#: What the kinds of evidence mean.
KIND_NOTES: dict[str, Both] = {
    "machine": {
        "en": "A check read the state of the host, on disk and at run time.",
        "ja": "確認プログラムが、ディスク上と実行時の状態を読み取った。",
    },
    "exercise": {
        "en": "An attack was tried on purpose and failed; the record says when and how.",
        "ja": "攻撃を試み、防がれることを確認した。いつ、どう試みたかの記録がある。",
    },
    "attested": {
        "en": "A person signed a statement that expires.",
        "ja": "期限のある書面に担当者が署名した。",
    },
}

STATUS_WORDS: dict[str, Both] = {
    "machine": {"en": "shown by machines alone", "ja": "機械による確認だけで示せる"},
    "partial": {"en": "shown in part", "ja": "一部を示せる"},
    "attested": {"en": "only people can show it", "ja": "書面でしか示せない"},
    "planned": {"en": "not built yet", "ja": "未実装"},
}

PROFILE_WORDS: dict[str, Both] = {
    "producer": {
        "en": "certified producer of anonymized medical data",
        "ja": "認定匿名加工医療情報作成事業者",
    },
    "entrusted": {
        "en": "certified entrusted operator",
        "ja": "認定医療情報等取扱受託事業者",
    },
}

ROLE_WORDS: dict[str, Both] = {
    "inbound": {"en": "inbound (receiving server)", "ja": "受信サーバ"},
    "core": {"en": "core (managing server)", "ja": "管理サーバ"},
    "outbound": {"en": "outbound (sending server)", "ja": "送信サーバ"},
    "gateway": {"en": "gateway", "ja": "ゲートウェイ"},
    "monitor": {"en": "monitor", "ja": "監視サーバ"},
    "terminal": {"en": "terminal", "ja": "端末"},
}

#: Names and values of the options that shaped an audit (`Scope.options`).
OPTION_WORDS: dict[str, Both] = {
    "policy": {"en": "policy", "ja": "方針"},
    "none": {"en": "none", "ja": "なし"},
    "this machine's": {"en": "this machine's", "ja": "この機械のもの"},
    "given": {"en": "given", "ja": "指定のファイル"},
    "user": {"en": "account", "ja": "アカウント"},
    "jobs": {"en": "hosts asked at once", "ja": "同時に問い合わせる数"},
    "timeout_ms": {"en": "milliseconds a host may take", "ja": "一台の制限時間（ミリ秒）"},
}

#: What a reader must not conclude from a report.
CAVEATS: tuple[Both, ...] = (
    {
        "en": (
            "An item is the worst of its evidence. A kind of evidence that an item asks for and "
            "that is not there counts as “could not tell”, never as a pass."
        ),
        "ja": (
            "項目の判定は、その証拠のうち最も悪いものとする。求められる種類の証拠がなければ"
            "「判定不能」とし、適合とはしない。"
        ),
    },
    {
        "en": (
            "A breach says that our reading is not met. The reading is stricter than the text in "
            f"places: {cite('6-iii-c', 'en')} speaks of terminal devices and of what holds in "
            "principle, and every machine of the site is held to it here."
        ),
        "ja": (
            "不適合とは、本ツールの解釈を満たさないことをいう。解釈は条文より厳しいことがある。"
            f"{cite('6-iii-c', 'ja')}は端末装置について「原則として」と定めるが、ここではサイトの"
            "すべての機械に求める。"
        ),
    },
    {
        "en": (
            "A self-built IPsec tunnel over the internet is not an IP-VPN service. The line of "
            f"{cite('6-iv-d-1', 'en')} needs the carrier's attestation in any case."
        ),
        "ja": (
            "インターネット上に自ら構築したIPsecは、IP-VPNサービスではない。"
            f"{cite('6-iv-d-1', 'ja')}の回線には、常に通信事業者の証明が必要である。"
        ),
    },
    {
        "en": (
            "In mode one-way-tcp the receiving side sends acknowledgements without payload. Their "
            "header fields and timing remain; mode diode sends no packet back at all."
        ),
        "ja": (
            "one-way-tcpでは、受信側がペイロードのない確認応答を返す。そのヘッダの値と送出の間隔は"
            "残る。diodeでは戻りパケットがない。"
        ),
    },
    {
        "en": (
            "Machine evidence is what the evaluated host itself said. A host whose kernel is in an "
            "attacker's hands can lie; its neighbours' checks and the exercises are the answer."
        ),
        "ja": (
            "機械による確認は、判定対象の機械自身の申告である。カーネルを奪われた機械は偽ることが"
            "できる。隣接する機械の確認と演習がこれを補う。"
        ),
    },
)

#: What a mode of the one-way hop leaves open; named in every report that has it.
MODE_NOTES: dict[str, Both] = {
    "one-way-tcp": {
        "en": "This site moves data in mode one-way-tcp: acknowledgements without payload go back.",
        "ja": "このサイトの方式はone-way-tcpである。ペイロードのない確認応答が戻る。",
    },
    "diode": {
        "en": "This site moves data in mode diode: no packet goes back.",
        "ja": "このサイトの方式はdiodeである。戻りパケットはない。",
    },
}

#: Stands in the report of a site with a line that is encrypted outside the default list.
UNLISTED_NOTE: Both = {
    "en": (
        "Lines of this site are encrypted outside the default cipher list (WireGuard: "
        "ChaCha20-Poly1305, BLAKE2s, Curve25519). The site asked for it."
    ),
    "ja": (
        "このサイトには、既定の暗号一覧の外で暗号化する回線がある（WireGuard：ChaCha20-Poly1305、"
        "BLAKE2s、Curve25519）。サイトの指定による。"
    ),
}

#: Every other word of the report, by the name its template uses.
WORDS: dict[str, Both] = {
    "title": {"en": "Article 6 gap report", "ja": "第六条 適合状況報告書"},
    "language": {"en": "English", "ja": "日本語"},
    "site": {"en": "Evaluated", "ja": "対象"},
    "profile": {"en": "Profile", "ja": "区分"},
    "not_known": {"en": "not known", "ja": "不明"},
    "law": {"en": "Regulation", "ja": "判定の基準"},
    "edition": {"en": "Edition read", "ja": "参照した版"},
    "time": {"en": "Time (UTC)", "ja": "実施時刻（UTC）"},
    "to": {"en": "to", "ja": "から"},
    "answered": {"en": "Hosts that answered", "ja": "応答した機械"},
    "signed": {"en": "Facts signed by the host", "ja": "機械の署名があるデータ"},
    "modes": {"en": "Modes of the one-way hop", "ja": "一方向転送の方式"},
    "unlisted": {"en": "Lines outside the default ciphers", "ja": "既定の暗号一覧の外の回線"},
    "tool": {"en": "Tool", "ja": "ツール"},
    "catalogue": {"en": "Catalogue (SHA-256)", "ja": "カタログ（SHA-256）"},
    "digest": {"en": "Evidence (SHA-256)", "ja": "証拠一式（SHA-256）"},
    "checked": {"en": "Bundle verified", "ja": "証拠一式の検証"},
    "official": {"en": "Official text", "ja": "条文"},
    "official_from": {"en": "as the reader brought it in", "ja": "読み手が用意した"},
    "not_brought": {
        "en": "this item is not in the file",
        "ja": "この項目はファイルにない",
    },
    "scope": {"en": "Scope", "ja": "範囲"},
    "partial": {
        "en": "Part of the whole: this audit left out what is listed under Scope.",
        "ja": "部分監査：範囲の欄に挙げたものは判定していない。",
    },
    "no_scope": {"en": "not recorded", "ja": "記録なし"},
    "in_hosts": {"en": "Hosts evaluated", "ja": "判定した機械"},
    "in_items": {"en": "Items evaluated", "ja": "判定した項目"},
    "in_checks": {"en": "Checks evaluated", "ja": "判定した確認項目"},
    "left_out": {"en": "left out", "ja": "除外"},
    "of_items_left_out": {
        "en": "those of the items left out",
        "ja": "除外した項目に属するもの",
    },
    "options": {"en": "Options", "ja": "オプション"},
    "evidence": {"en": "Kinds of evidence asked for", "ja": "求めた証拠の種類"},
    "summary": {"en": "Summary", "ja": "要約"},
    "all_items": {"en": "Items", "ja": "項目"},
    "findings": {"en": "Machine findings", "ja": "機械による確認の所見"},
    "contents": {"en": "Contents", "ja": "目次"},
    "site_problems": {"en": "The site model breaks its own rules", "ja": "サイト定義の違反"},
    "as_written": {"en": "", "ja": "プログラムの出力を原文のまま示す。"},
    "read": {"en": "Read this first", "ja": "はじめに"},
    "table": {"en": "Items of the regulation", "ja": "項目別の判定"},
    "item": {"en": "Item", "ja": "項目"},
    "asks": {"en": "What it asks for", "ja": "内容"},
    "verdict": {"en": "Verdict", "ja": "判定"},
    "not_asked": {"en": "not asked for", "ja": "求められていない"},
    "reading": {"en": "Our reading", "ja": "本ツールの解釈"},
    "matrix": {"en": "Items by host", "ja": "機械別の判定"},
    "matrix_note": {
        "en": "Machine evidence only: checks passed of checks that apply; colour is the worst.",
        "ja": "機械による確認のみ。適用される確認項目のうち適合した数。色は最も悪い判定を表す。",
    },
    "breaches": {"en": "Breaches and their remedies", "ja": "不適合と是正"},
    "no_breach": {
        "en": "No machine check found a breach.",
        "ja": "機械による確認で不適合はなかった。",
    },
    "unknown": {"en": "What could not be told", "ja": "判定できなかったもの"},
    "gaps": {"en": "Our reading, and what stays open", "ja": "解釈と残る課題"},
    "gaps_note": {
        "en": "Known limits of this project for each item, whatever the verdict.",
        "ja": "判定にかかわらない、本ツールの既知の限界を項目ごとに示す。",
    },
    "status": {"en": "Status", "ja": "状態"},
    "open": {"en": "Open", "ja": "残る課題"},
    "hosts": {"en": "Hosts", "ja": "機械一覧"},
    "host": {"en": "Host", "ja": "機械"},
    "role": {"en": "Role", "ja": "役割"},
    "answer": {"en": "Answer", "ja": "応答"},
    "whole": {"en": "whole", "ja": "すべて受領"},
    "fingerprint": {"en": "Host key reached", "ja": "ホスト鍵"},
    "collector": {"en": "Collector", "ja": "収集プログラム"},
    "took": {"en": "Took", "ja": "所要時間"},
    "seconds": {"en": "s", "ja": "秒"},
    "reason": {"en": "Reason", "ja": "理由"},
    "checks": {"en": "Checks", "ja": "確認項目"},
    "expected": {"en": "Expected", "ja": "期待する状態"},
    "observed": {"en": "Observed", "ja": "実際の状態"},
    "remedy": {"en": "Remedy", "ja": "是正"},
    "by_hand": {"en": "By hand", "ja": "手作業での確認"},
    "on_disk": {"en": "on disk", "ja": "ディスク上"},
    "at_run_time": {"en": "at run time", "ja": "実行時"},
    "method": {"en": "Evidence and how to check it", "ja": "証拠とその検証"},
    "again": {
        "en": (
            "Anybody can evaluate the raw facts of this bundle again, offline. This page alone "
            "proves nothing; the signer's key comes from the signer, not from the bundle:"
        ),
        "ja": (
            "収集した生データは証拠一式に含まれ、誰でもオフラインで判定し直せる。このページだけでは"
            "何も証明しない。署名者の公開鍵は、証拠一式からではなく署名者本人から受け取ること："
        ),
    },
    "digest_note": {
        "en": (
            "The number at the foot of each page is the SHA-256 over the bundle's files other than "
            "this page. `sekisho verify` prints it too; by hand, in the bundle's folder:"
        ),
        "ja": (
            "各ページ下部の値は、このページを除く証拠一式のファイルのSHA-256である。"
            "`sekisho verify`も同じ値を表示する。手作業では、証拠一式のフォルダで次を実行する："
        ),
    },
    "signatures": {"en": "Signatures", "ja": "署名欄"},
    "signatures_note": {
        "en": "Compare the evidence's SHA-256 with the bundle that was handed in before signing.",
        "ja": "署名者は、証拠一式のSHA-256を受領したものと照合したうえで署名する。",
    },
    "auditor": {"en": "Auditor", "ja": "監査人"},
    "in_charge": {"en": "Person in charge of security", "ja": "安全管理責任者"},
    "witness": {"en": "Witness", "ja": "立会人"},
    "name": {"en": "Name", "ja": "氏名"},
    "date": {"en": "Date", "ja": "日付"},
    "signature": {"en": "Signature", "ja": "署名・押印"},
    "page": {"en": "Page", "ja": "ページ"},
    "yes": {"en": "yes", "ja": "あり"},
    "no": {"en": "no", "ja": "なし"},
}

#: In front of both languages at once: what the page's switch says.
SWITCH = (("ja", "日本語"), ("en", "English"), ("both", "両方 Both"))
