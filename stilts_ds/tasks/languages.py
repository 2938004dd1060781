"""The languages of XTREME and XTREME-R: data only.

`iso3` is the three-letter code in the file names of Tatoeba (ISO 639-3 where the benchmark has no Tatoeba file),
`script` an ISO 15924 code, and `family` the language's top-level family, as in the tables of arXiv 2003.11080 and
2104.07412.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """One language; `code` is the two-letter code that XTREME uses."""

    code: str
    name: str
    iso3: str
    script: str
    family: str


_XTREME = (
    Language("af", "Afrikaans", "afr", "Latn", "Indo-European"),
    Language("ar", "Arabic", "ara", "Arab", "Afro-Asiatic"),
    Language("bg", "Bulgarian", "bul", "Cyrl", "Indo-European"),
    Language("bn", "Bengali", "ben", "Beng", "Indo-European"),
    Language("de", "German", "deu", "Latn", "Indo-European"),
    Language("el", "Greek", "ell", "Grek", "Indo-European"),
    Language("en", "English", "eng", "Latn", "Indo-European"),
    Language("es", "Spanish", "spa", "Latn", "Indo-European"),
    Language("et", "Estonian", "est", "Latn", "Uralic"),
    Language("eu", "Basque", "eus", "Latn", "Basque"),
    Language("fa", "Persian", "pes", "Arab", "Indo-European"),
    Language("fi", "Finnish", "fin", "Latn", "Uralic"),
    Language("fr", "French", "fra", "Latn", "Indo-European"),
    Language("he", "Hebrew", "heb", "Hebr", "Afro-Asiatic"),
    Language("hi", "Hindi", "hin", "Deva", "Indo-European"),
    Language("hu", "Hungarian", "hun", "Latn", "Uralic"),
    Language("id", "Indonesian", "ind", "Latn", "Austronesian"),
    Language("it", "Italian", "ita", "Latn", "Indo-European"),
    Language("ja", "Japanese", "jpn", "Jpan", "Japonic"),
    Language("jv", "Javanese", "jav", "Latn", "Austronesian"),
    Language("ka", "Georgian", "kat", "Geor", "Kartvelian"),
    Language("kk", "Kazakh", "kaz", "Cyrl", "Turkic"),
    Language("ko", "Korean", "kor", "Kore", "Koreanic"),
    Language("ml", "Malayalam", "mal", "Mlym", "Dravidian"),
    Language("mr", "Marathi", "mar", "Deva", "Indo-European"),
    Language("ms", "Malay", "zsm", "Latn", "Austronesian"),
    Language("my", "Burmese", "mya", "Mymr", "Sino-Tibetan"),
    Language("nl", "Dutch", "nld", "Latn", "Indo-European"),
    Language("pt", "Portuguese", "por", "Latn", "Indo-European"),
    Language("ru", "Russian", "rus", "Cyrl", "Indo-European"),
    Language("sw", "Swahili", "swh", "Latn", "Niger-Congo"),
    Language("ta", "Tamil", "tam", "Taml", "Dravidian"),
    Language("te", "Telugu", "tel", "Telu", "Dravidian"),
    Language("th", "Thai", "tha", "Thai", "Kra-Dai"),
    Language("tl", "Tagalog", "tgl", "Latn", "Austronesian"),
    Language("tr", "Turkish", "tur", "Latn", "Turkic"),
    Language("ur", "Urdu", "urd", "Arab", "Indo-European"),
    Language("vi", "Vietnamese", "vie", "Latn", "Austro-Asiatic"),
    Language("yo", "Yoruba", "yor", "Latn", "Niger-Congo"),
    Language("zh", "Chinese", "cmn", "Hani", "Sino-Tibetan"),
)
_ADDED_BY_XTREME_R = (
    Language("az", "Azerbaijani", "aze", "Latn", "Turkic"),
    Language("gu", "Gujarati", "guj", "Gujr", "Indo-European"),
    Language("ht", "Haitian Creole", "hat", "Latn", "Creole"),
    Language("lt", "Lithuanian", "lit", "Latn", "Indo-European"),
    Language("pa", "Punjabi", "pan", "Guru", "Indo-European"),
    Language("pl", "Polish", "pol", "Latn", "Indo-European"),
    Language("qu", "Quechua", "que", "Latn", "Quechuan"),
    Language("ro", "Romanian", "ron", "Latn", "Indo-European"),
    Language("uk", "Ukrainian", "ukr", "Cyrl", "Indo-European"),
    Language("wo", "Wolof", "wol", "Latn", "Niger-Congo"),
)

XTREME: tuple[str, ...] = tuple(language.code for language in _XTREME)
XTREME_R: tuple[str, ...] = tuple(sorted(XTREME + tuple(language.code for language in _ADDED_BY_XTREME_R)))
LANGUAGES: dict[str, Language] = {language.code: language for language in _XTREME + _ADDED_BY_XTREME_R}


def iso3_of(code: str) -> str:
    """The three-letter code; a language that is not in the table stands for itself."""
    return LANGUAGES[code].iso3 if code in LANGUAGES else code


def name_of(code: str) -> str:
    """The English name; a language that is not in the table stands for itself."""
    return LANGUAGES[code].name if code in LANGUAGES else code
