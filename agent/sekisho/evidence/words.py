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
