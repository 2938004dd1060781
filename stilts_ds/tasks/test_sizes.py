"""How many examples the test sets of the target tasks have: data only. A size that nobody could be asked for is absent.

What counts as an example is what a label file holds one of: a pair, a question, a sentence with tags, a gold pair of
BUCC, an English sentence of Tatoeba, a mention of Mewsli-X. Where each number is from, and what is not known, stands in
docs/data_files.md.
"""

from __future__ import annotations


def _all(languages: str, size: int) -> dict[str, int]:
    return dict.fromkeys(languages.split(), size)


XNLI = _all("ar bg de el en es fr hi ru sw th tr ur vi zh", 5_010)
PAWSX = _all("de en es fr ja ko zh", 2_000)
XQUAD = _all("en es de el ru tr ar vi th zh hi", 1_190)
MLQA = {"en": 11_590, "es": 5_253, "de": 4_517, "ar": 5_335, "hi": 4_918, "vi": 5_495, "zh": 5_137}
TYDIQA = {
    "en": 440, "ar": 921, "bn": 113, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669,
}  # fmt: skip
PANX = {
    **_all("ar he vi id eu nl en de el fa fr it pt es bg ru ja ka ko th zh tr et fi hu", 10_000),
    **_all("ms tl ml ta te af bn hi mr ur sw kk", 1_000),
    **_all("jv yo my", 100),
}
# Sentences of all treebanks of UD 2.5 whose files begin with the language's code, less those whose words are withheld:
# what XTREME's scripts keep. German: GSD, HDT, LIT and PUD. French: 12 sentences of FTB keep words enough.
UDPOS = {
    "af": 425, "ar": 1_680, "bg": 1_116, "de": 22_358, "el": 456, "en": 5_440, "es": 3_147, "et": 3_760, "eu": 1_799,
    "fa": 600, "fi": 4_422, "fr": 5_009, "he": 491, "hi": 2_684, "hu": 449, "id": 1_557, "it": 3_518, "ja": 2_372,
    "kk": 1_047, "ko": 4_276, "mr": 47, "nl": 1_471, "pt": 2_681, "ru": 8_976, "ta": 120, "te": 146, "th": 1_000,
    "tl": 55, "tr": 4_785, "ur": 535, "vi": 800, "yo": 100, "zh": 3_455,
}  # fmt: skip
BUCC2018 = {"de": 9_580, "fr": 9_086, "ru": 14_435, "zh": 1_899}  # gold pairs; sentences a side: not known
TATOEBA = {
    **_all("ar he vi id tl eu af nl de el bn hi mr ur fa fr it pt es bg ru ja ko zh tr et fi hu", 1_000),
    "jv": 205, "ml": 687, "ta": 307, "te": 234, "ka": 746, "th": 548, "sw": 390, "kk": 575,
}  # fmt: skip
LAREQA = _all("ar de el en es hi ru th tr vi zh", 1_190)
MEWSLIX = {
    "ar": 1_501, "de": 1_551, "en": 1_490, "es": 1_552, "fa": 458, "ja": 1_519, "pl": 1_562, "ro": 672, "ta": 1_567,
    "tr": 1_215, "uk": 1_537,
}  # fmt: skip
XCOPA = _all("et ht id it qu sw ta th tr vi zh", 500)

# The languages that XTREME-R adds. POS: all sentences of UD 2.7's test files of a language.
UDPOS_ADDED = {"lt": 739, "pl": 4_942, "ro": 2_272, "uk": 892, "wo": 470}
PANX_ADDED = {**_all("lt pl ro uk", 10_000), "az": 1_000, **_all("gu pa qu", 100)}
