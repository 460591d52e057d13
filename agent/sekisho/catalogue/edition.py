"""Which text of the law the catalogue reads, named in every report. Pure.

Source: Regulation for Enforcement of the Act, as translated on 2019-03-29. The Act was amended on
2023-05-26 (in force 2024-04-01); whether an edition is in force is for the site's counsel to say.
"""

from __future__ import annotations

#: The regulation whose items are evaluated, by its full name.
REGULATION = {
    "en": (
        "Regulation for Enforcement of the Act on Anonymized Medical Data That Are Meant to "
        "Contribute to Research and Development in the Medical Field (Order No. 1 of 2018 of the "
        "Cabinet Office, MEXT, MHLW and METI)"
    ),
    "ja": (
        "医療分野の研究開発に資するための匿名加工医療情報に関する法律施行規則"
        "（平成三十年内閣府・文部科学省・厚生労働省・経済産業省令第一号）"
    ),
}

#: The edition of it that was read.
EDITION = {
    "en": "English translation of 2019-03-29",
    "ja": "2019年3月29日付の英訳",
}

#: What the edition means for a verdict; stands in every report.
EDITION_NOTE = {
    "en": (
        "The items are read from the English translation of 2019-03-29; a translation is not the "
        "law. The readings are ours. The Act was amended later (in force 2024-04-01) and is now "
        "the Act on Anonymized Medical Data and Pseudonymized Medical Data That Are Meant to "
        "Contribute to Research and Development in the Medical Field. What changed since is not "
        "evaluated here; whether an edition is in force is for the site's counsel to say."
    ),
    "ja": (
        "各号は2019年3月29日付の英訳から読み取ったもので、英訳は法令の正文ではない。解釈は本ツールの"
        "ものである。法律はその後改正され（2024年4月1日施行）、現在の題名は「医療分野の研究開発に資する"
        "ための匿名加工医療情報及び仮名加工医療情報に関する法律」である。改正後の規定はここでは判定して"
        "いない。どの版が効力を持つかはサイトの法務担当が判断する。"
    ),
}
