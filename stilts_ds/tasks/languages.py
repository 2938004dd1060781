"""The languages of XTREME, XTREME-R, MultiCheckList and CodeXGLUE: data only.

`iso3` is the three-letter code in the file names of Tatoeba (ISO 639-3 where the benchmark has no Tatoeba file),
`script` an ISO 15924 code, and `family` the language's top-level family, as in the tables of arXiv 2003.11080 and
2104.07412. `wikipedia` is the size class of the language's Wikipedia in 2020, when XTREME appeared: a stand-in for how
much text a multilingual model has read in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WikipediaSize = Literal["large", "medium", "small"]  # articles: at least 1,000,000; at least 100,000; fewer


@dataclass(frozen=True)
class Language:
    """One language; `code` is the two-letter code that XTREME uses."""

    code: str
    name: str
    iso3: str
    script: str
    family: str
    wikipedia: WikipediaSize


_XTREME = (
    Language("af", "Afrikaans", "afr", "Latn", "Indo-European", "small"),
    Language("ar", "Arabic", "ara", "Arab", "Afro-Asiatic", "large"),
    Language("bg", "Bulgarian", "bul", "Cyrl", "Indo-European", "medium"),
    Language("bn", "Bengali", "ben", "Beng", "Indo-European", "small"),
    Language("de", "German", "deu", "Latn", "Indo-European", "large"),
    Language("el", "Greek", "ell", "Grek", "Indo-European", "medium"),
    Language("en", "English", "eng", "Latn", "Indo-European", "large"),
    Language("es", "Spanish", "spa", "Latn", "Indo-European", "large"),
    Language("et", "Estonian", "est", "Latn", "Uralic", "medium"),
    Language("eu", "Basque", "eus", "Latn", "Basque", "medium"),
    Language("fa", "Persian", "pes", "Arab", "Indo-European", "medium"),
    Language("fi", "Finnish", "fin", "Latn", "Uralic", "medium"),
    Language("fr", "French", "fra", "Latn", "Indo-European", "large"),
    Language("he", "Hebrew", "heb", "Hebr", "Afro-Asiatic", "medium"),
    Language("hi", "Hindi", "hin", "Deva", "Indo-European", "medium"),
    Language("hu", "Hungarian", "hun", "Latn", "Uralic", "medium"),
    Language("id", "Indonesian", "ind", "Latn", "Austronesian", "medium"),
    Language("it", "Italian", "ita", "Latn", "Indo-European", "large"),
    Language("ja", "Japanese", "jpn", "Jpan", "Japonic", "large"),
    Language("jv", "Javanese", "jav", "Latn", "Austronesian", "small"),
    Language("ka", "Georgian", "kat", "Geor", "Kartvelian", "medium"),
    Language("kk", "Kazakh", "kaz", "Cyrl", "Turkic", "medium"),
    Language("ko", "Korean", "kor", "Kore", "Koreanic", "medium"),
    Language("ml", "Malayalam", "mal", "Mlym", "Dravidian", "small"),
    Language("mr", "Marathi", "mar", "Deva", "Indo-European", "small"),
    Language("ms", "Malay", "zsm", "Latn", "Austronesian", "medium"),
    Language("my", "Burmese", "mya", "Mymr", "Sino-Tibetan", "small"),
    Language("nl", "Dutch", "nld", "Latn", "Indo-European", "large"),
    Language("pt", "Portuguese", "por", "Latn", "Indo-European", "large"),
    Language("ru", "Russian", "rus", "Cyrl", "Indo-European", "large"),
    Language("sw", "Swahili", "swh", "Latn", "Niger-Congo", "small"),
    Language("ta", "Tamil", "tam", "Taml", "Dravidian", "medium"),
    Language("te", "Telugu", "tel", "Telu", "Dravidian", "small"),
    Language("th", "Thai", "tha", "Thai", "Kra-Dai", "medium"),
    Language("tl", "Tagalog", "tgl", "Latn", "Austronesian", "small"),
    Language("tr", "Turkish", "tur", "Latn", "Turkic", "medium"),
    Language("ur", "Urdu", "urd", "Arab", "Indo-European", "medium"),
    Language("vi", "Vietnamese", "vie", "Latn", "Austro-Asiatic", "large"),
    Language("yo", "Yoruba", "yor", "Latn", "Niger-Congo", "small"),
    Language("zh", "Chinese", "cmn", "Hani", "Sino-Tibetan", "large"),
)
_ADDED_BY_XTREME_R = (
    Language("az", "Azerbaijani", "aze", "Latn", "Turkic", "medium"),
    Language("gu", "Gujarati", "guj", "Gujr", "Indo-European", "small"),
    Language("ht", "Haitian Creole", "hat", "Latn", "Creole", "small"),
    Language("lt", "Lithuanian", "lit", "Latn", "Indo-European", "medium"),
    Language("pa", "Punjabi", "pan", "Guru", "Indo-European", "small"),
    Language("pl", "Polish", "pol", "Latn", "Indo-European", "large"),
    Language("qu", "Quechua", "que", "Latn", "Quechuan", "small"),
    Language("ro", "Romanian", "ron", "Latn", "Indo-European", "medium"),
    Language("uk", "Ukrainian", "ukr", "Cyrl", "Indo-European", "large"),
    Language("wo", "Wolof", "wol", "Latn", "Niger-Congo", "small"),
)
_BESIDE = (
    Language("ha", "Hausa", "hau", "Latn", "Afro-Asiatic", "small"),  # of MultiCheckList alone
    Language("lv", "Latvian", "lav", "Latn", "Indo-European", "medium"),  # of CodeXGLUE's documentation alone
)

XTREME: tuple[str, ...] = tuple(language.code for language in _XTREME)
XTREME_R: tuple[str, ...] = tuple(sorted(XTREME + tuple(language.code for language in _ADDED_BY_XTREME_R)))
LANGUAGES: dict[str, Language] = {language.code: language for language in _XTREME + _ADDED_BY_XTREME_R + _BESIDE}


def iso3_of(code: str) -> str:
    """The three-letter code; a language that is not in the table stands for itself."""
    return LANGUAGES[code].iso3 if code in LANGUAGES else code


def name_of(code: str) -> str:
    """The English name; a language that is not in the table stands for itself."""
    return LANGUAGES[code].name if code in LANGUAGES else code
