"""The words of a report in English and Japanese. Pure."""

from __future__ import annotations

from sekisho.catalogue.model import Verdict

LANGUAGES = ("en", "ja")

#: What a verdict is called, by language.
VERDICT_WORDS: dict[Verdict, dict[str, str]] = {
    Verdict.PASS: {"en": "pass", "ja": "適合"},
    Verdict.FAIL: {"en": "breach", "ja": "不適合"},
    Verdict.ERROR: {"en": "could not tell", "ja": "判定不能"},
    Verdict.NOT_APPLICABLE: {"en": "not applicable", "ja": "対象外"},
    Verdict.WAIVED: {"en": "waived", "ja": "例外承認"},
}

#: The three kinds of evidence; they are never mixed.
KIND_WORDS: dict[str, dict[str, str]] = {
    "machine": {"en": "machine", "ja": "機械"},
    "exercise": {"en": "exercise", "ja": "演習"},
    "attested": {"en": "attested", "ja": "証明書"},
}

#: Why a kind of evidence that an item asks for is not there.
MISSING_WORDS: dict[str, dict[str, str]] = {
    "machine": {"en": "no machine check yet", "ja": "機械による確認が未実装"},
    "exercise": {"en": "no record of an exercise", "ja": "演習の記録が無い"},
    "attested": {"en": "no signed statement", "ja": "署名した証明が無い"},
}

#: Which text is judged; stands in every report.
LAW_TEXT = {
    "en": (
        "Judged is the Regulation for Enforcement of the Act on Anonymized Medical Data in its "
        "English translation of 2019. The Act was amended later (in force 2024-04-01); what "
        "changed since is not judged here."
    ),
    "ja": (
        "判定の基準は、匿名加工医療情報に関する法律の施行規則の 2019 年の英訳である。法律は"
        "その後改正され (2024-04-01 施行)、改正後の変更はここでは判定していない。"
    ),
}

#: What a reader must not conclude from a report.
CAVEATS: tuple[dict[str, str], ...] = (
    {
        "en": (
            "An item is the worst of its evidence. A kind of evidence that an item asks for and "
            "that is not there counts as “could not tell”, never as a pass."
        ),
        "ja": (
            "項目の判定はその証拠のうち最も悪いものとする。求められる種類の証拠が無ければ"
            "「判定不能」とし、適合とはしない。"
        ),
    },
    {
        "en": (
            "A self-built IPsec tunnel over the internet is not an IP-VPN service. The line of "
            "6(iv)(d)1 needs the carrier's attestation in any case."
        ),
        "ja": (
            "インターネット上に自ら構築した IPsec は IP-VPN サービスではない。6(iv)(d)1 の回線には"
            "常に通信事業者の証明が必要である。"
        ),
    },
    {
        "en": (
            "In mode one-way-tcp the receiving side sends acknowledgements without payload. Their "
            "header fields and timing remain; mode diode sends no packet back at all."
        ),
        "ja": (
            "one-way-tcp では受信側がデータを伴わない確認応答を返す。ヘッダと時間間隔は残る。"
            "diode では戻りパケットが無い。"
        ),
    },
    {
        "en": (
            "Machine evidence is what the judged host itself said. A host whose kernel is in an "
            "attacker's hands can lie; its neighbours' checks and the exercises are the answer."
        ),
        "ja": (
            "機械の証拠は判定対象の機械自身の申告である。カーネルを奪われた機械は偽り得る。"
            "隣の機械の確認と演習がこれを補う。"
        ),
    },
)

#: What the kinds of evidence mean.
KIND_NOTES: dict[str, dict[str, str]] = {
    "machine": {
        "en": "A check read the state of the host, on disk and at run time.",
        "ja": "確認プログラムがディスク上と実行時の状態を読み取った。",
    },
    "exercise": {
        "en": "An attack was tried on purpose and failed; the record says when and how.",
        "ja": "意図的に攻撃を試み、失敗した。いつ、どう試みたかの記録がある。",
    },
    "attested": {
        "en": "A person signed a statement that expires.",
        "ja": "期限のある証明に担当者が署名した。",
    },
}

#: What a mode of the one-way hop leaves open; named in every report that has it.
MODE_NOTES: dict[str, dict[str, str]] = {
    "one-way-tcp": {
        "en": "This site moves data in mode one-way-tcp: acknowledgements without payload go back.",
        "ja": "このサイトの方式は one-way-tcp である。データを伴わない確認応答が戻る。",
    },
    "diode": {
        "en": "This site moves data in mode diode: no packet goes back.",
        "ja": "このサイトの方式は diode である。戻りパケットは無い。",
    },
}

#: Stands in the report of a site with a line that is encrypted outside the default list.
UNLISTED_NOTE = {
    "en": (
        "Lines of this site are encrypted outside the default cipher list (WireGuard: "
        "ChaCha20-Poly1305, BLAKE2s, Curve25519). The site asked for it."
    ),
    "ja": (
        "このサイトには既定の暗号一覧の外で暗号化する回線がある (WireGuard: ChaCha20-Poly1305、"
        "BLAKE2s、Curve25519)。サイトの指定による。"
    ),
}

YES = {"en": "yes", "ja": "あり"}
NO = {"en": "no", "ja": "なし"}

#: Headings and labels of the report.
HEADINGS: dict[str, dict[str, str]] = {
    "title": {"en": "Article 6 gap report", "ja": "第6条 適合状況報告"},
    "site": {"en": "Judged", "ja": "対象"},
    "profile": {"en": "Profile", "ja": "区分"},
    "time": {"en": "Time (UTC)", "ja": "実施時刻"},
    "answered": {"en": "Hosts that answered", "ja": "応答した機械"},
    "scope": {"en": "Scope", "ja": "範囲"},
    "partial": {
        "en": "Part of the whole: this audit left out what is listed under Scope.",
        "ja": "部分監査: 範囲の欄に挙げたものを判定していない。",
    },
    "no_scope": {"en": "not recorded", "ja": "記録なし"},
    "in_hosts": {"en": "Hosts judged", "ja": "判定した機械"},
    "in_items": {"en": "Items judged", "ja": "判定した項目"},
    "in_checks": {"en": "Checks judged", "ja": "判定した確認"},
    "left_out": {"en": "left out", "ja": "除外"},
    "options": {"en": "Options", "ja": "オプション"},
    "signed": {"en": "Facts signed by the host", "ja": "機械の署名がある事実"},
    "modes": {"en": "Modes of the one-way hop", "ja": "一方向転送の方式"},
    "unlisted": {"en": "Lines outside the default ciphers", "ja": "既定の暗号一覧の外の回線"},
    "tool": {"en": "Tool", "ja": "ツール"},
    "catalogue": {"en": "Catalogue (SHA-256)", "ja": "カタログ"},
    "evidence": {"en": "Kinds of evidence asked for", "ja": "求めた証拠の種類"},
    "summary": {"en": "Summary", "ja": "要約"},
    "items": {"en": "Items", "ja": "項目"},
    "findings": {"en": "Machine findings", "ja": "機械の所見"},
    "site_problems": {"en": "The site model breaks its own rules", "ja": "サイトモデルの違反"},
    "read": {"en": "Read this first", "ja": "はじめに"},
    "table": {"en": "Items of the regulation", "ja": "項目別の判定"},
    "item": {"en": "Item", "ja": "項"},
    "asks": {"en": "What it asks for", "ja": "内容"},
    "verdict": {"en": "Verdict", "ja": "判定"},
    "reading": {"en": "Our reading", "ja": "解釈"},
    "matrix": {"en": "Items by host", "ja": "機械別の判定"},
    "matrix_note": {
        "en": "Machine evidence only: checks passed of checks that apply; colour is the worst.",
        "ja": "機械の証拠のみ。適用される確認のうち適合した数。色は最も悪い判定。",
    },
    "breaches": {"en": "Breaches and their remedies", "ja": "不適合と是正"},
    "no_breach": {"en": "No machine check found a breach.", "ja": "機械の確認で不適合は無い。"},
    "unknown": {"en": "What could not be told", "ja": "判定できなかったもの"},
    "gaps": {"en": "Our reading, and what stays open", "ja": "解釈と残る課題"},
    "gaps_note": {
        "en": "Known limits of this project for each item, whatever the verdict.",
        "ja": "判定にかかわらず、本プロジェクトの既知の限界。",
    },
    "status": {"en": "Status", "ja": "状態"},
    "open": {"en": "Open", "ja": "残り"},
    "hosts": {"en": "Hosts", "ja": "機械一覧"},
    "host": {"en": "Host", "ja": "機械"},
    "role": {"en": "Role", "ja": "役割"},
    "answer": {"en": "Answer", "ja": "応答"},
    "whole": {"en": "whole", "ja": "全て受領"},
    "fingerprint": {"en": "Host key reached", "ja": "ホスト鍵"},
    "collector": {"en": "Collector", "ja": "収集器"},
    "took": {"en": "Took", "ja": "所要"},
    "reason": {"en": "Reason", "ja": "理由"},
    "checks": {"en": "Checks", "ja": "確認項目"},
    "expected": {"en": "Expected", "ja": "期待"},
    "observed": {"en": "Observed", "ja": "実際"},
    "remedy": {"en": "Remedy", "ja": "是正"},
    "by_hand": {"en": "By hand", "ja": "手作業での確認"},
    "method": {"en": "Evidence and how to check it", "ja": "証拠とその検証"},
    "again": {
        "en": (
            "Anybody can judge the raw facts of this bundle again, offline. This page alone proves "
            "nothing; the signer's key comes from the signer, not from the bundle:"
        ),
        "ja": (
            "この束の生の事実は誰でもオフラインで判定し直せる。この頁だけでは何も証明しない。"
            "署名者の鍵は束からではなく署名者から受け取ること:"
        ),
    },
}
