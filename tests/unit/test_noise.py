"""Kinds of noise: each script's law, rates that nest, edits that are as many as asked for."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stilts_ds.errors import UserError
from stilts_ds.noise.clusters import Clusters, clusters_of
from stilts_ds.noise.keyboards import keyboards, parse_keyboard
from stilts_ds.noise.kinds import KINDS, Site, Writing
from stilts_ds.noise.noiser import Collector, Noiser, Nowhere, make_noiser
from stilts_ds.noise.scripts import lower, upper, without_marks
from stilts_ds.noise.spec import parse_noise
from stilts_ds.tasks.languages import LANGUAGES

# One sentence a script; every one is some thirty letters long.
TEXTS = {
    "de": "Die Straße ist heute für Fußgänger gesperrt, sagte Jürgen.",
    "tr": "İstanbul'da ışıklı bir gün Iğdır yolunda geçti.",
    "vi": "Đường phố hôm nay bị cấm đối với người đi bộ.",
    "ru": "Ещё один чёрный йод стоит её соседу дорого.",
    "el": "Αυτή είναι μια σύντομη πρόταση, είπε ο Γιώργος.",
    "ka": "ეს არის მოკლე ქართული წინადადება ქუჩაზე.",
    "ar": "هذه جملة قصيرة باللغة العربية عن الشارع.",
    "he": "זהו משפט קצר בעברית על הרחוב הגדול.",
    "hi": "यह सड़क आज हिन्दी में क्षितिज तक लोगों के लिए बन्द है।",
    "bn": "এই রাস্তাটি আজ পথচারীদের জন্য বন্ধ আছে।",
    "pa": "ਇਹ ਸੜਕ ਅੱਜ ਲੋਕਾਂ ਲਈ ਬੰਦ ਹੈ ਜੀ।",
    "gu": "આ રસ્તો આજે લોકો માટે બંધ છે ભાઈ.",
    "ta": "இந்தத் தெரு இன்று மக்களுக்கு மூடப்பட்டுள்ளது.",
    "te": "ఈ వీధి ఈరోజు ప్రజలకు మూసివేయబడింది.",
    "ml": "ഈ തെരുവ് ഇന്ന് ആളുകൾക്ക് അടച്ചിരിക്കുന്നു.",
    "my": "ဒီလမ်းကို ဒီနေ့ လူတွေအတွက် ပိတ်ထားတယ်။",
    "th": "นี่คือประโยคภาษาไทยสั้นๆ ที่นำมาให้อ่านก็ดี",
    "ko": "이 거리는 오늘 보행자에게 닫혀 있습니다.",
    "yo": "Ọjọ́ méjì ni wọ́n fi ṣe iṣẹ́ náà ní ọ̀nà.",
    "zh": "这条街今天禁止行人通行，尤尔根说。",
    "ja": "この通りは今日、歩行者は通れません、がんばれ。",
}
CASED = {"de", "tr", "vi", "yo", "ru", "el"}
MARKS_CARRY_THE_WORD = {"ka", "hi", "bn", "pa", "gu", "ta", "te", "ml", "my", "th", "ko", "zh", "ja"}


def noiser(kind: str, rate: int, language: str, text: str = "", draw: int = 1, **words: tuple[str, ...]) -> Noiser:
    name = f"{kind}-{rate}" + (f"-s{draw}" if draw > 1 else "")
    collected = Collector(parse_noise(f"task@{name}", name))
    collected.text(text or TEXTS[language], "1", "text")
    return make_noiser(collected, language, f"task test {language}", words)


def noisy(kind: str, rate: int, language: str, text: str = "", example: str = "1", draw: int = 1) -> str:
    made = noiser(kind, rate, language, text, draw)
    return made.text(text or TEXTS[language], example, "text").text


def lone_marks(text: str) -> int:
    return sum(unicodedata.category(cluster[0])[0] == "M" for cluster in clusters_of(text))


def applies(kind: str, language: str) -> bool:
    try:
        noiser(kind, 5, language)
    except Nowhere:
        return False
    return True


# --- which cells there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", TEXTS)
def test_a_kind_applies_to_the_scripts_that_it_means_something_in(language: str) -> None:
    assert applies("typo", language) == (language not in ("zh", "ja"))
    assert applies("char", language) and applies("space", language)
    assert applies("case", language) == (language in CASED)
    assert applies("diacritics", language) == (language not in MARKS_CARRY_THE_WORD)
    assert applies("switch", language) == (language not in ("zh", "ja", "th", "my"))


def test_an_empty_cell_says_why() -> None:
    with pytest.raises(Nowhere, match="task test ka: uppercase noise does not apply: Georgian letters have no case"):
        noiser("uppercase", 5, "ka")
    with pytest.raises(Nowhere, match="no keyboard types its script directly; ask for char"):
        noiser("typo", 5, "zh")


def test_keyboards_know_every_language_of_the_benchmarks() -> None:
    # Hausa is a language of MultiCheckList alone and Latvian of CodeXGLUE's; each takes the keyboard that has most of
    # its letters.
    assert set(keyboards()) == set(LANGUAGES) - {"ha", "lv"}
    assert {code for code, keyboard in keyboards().items() if not keyboard.neighbours} == {"ja", "zh"}
    german = dict(keyboards()["de"].neighbours["z"])
    assert german == {"t": 9, "u": 9, "g": 1, "h": 1}
    assert dict(keyboards()["fr"].neighbours["a"]).keys() == {"z", "q", "é"}
    assert "ı" in keyboards()["tr"].neighbours and "ı" in keyboards()["az"].neighbours


@pytest.mark.parametrize("language", sorted(keyboards()))
def test_every_key_is_one_letter_and_lies_beside_others(language: str) -> None:
    for letter, around in keyboards()[language].neighbours.items():
        for name in (letter, *(neighbour for neighbour, _ in around)):
            assert len(clusters_of(name)) == 1 and unicodedata.category(name[0])[0] == "L", (letter, name)
        assert letter not in dict(around)


def test_keys_of_several_characters_and_letters_on_two_keys_have_their_own_neighbours() -> None:
    def around(language: str, letter: str) -> set[str]:
        return set(dict(keyboards()[language].neighbours[letter]))

    # As xkb-data has them: lam-alif is one key, nukta letters are one letter each, Portuguese has no letters º and ª.
    assert around("ar", "ل") == {"ا", "ب", "ر", "غ", "ف", "ﻻ"} and around("ar", "ﻻ") == {"ر", "ل", "ا", "ى"}
    assert around("pt", "a") == {"q", "w", "s", "z"} and around("pt", "o") == {"i", "p", "k", "l"}
    assert around("bn", "চ") == {"জ", "ট", "ত", "ড", "\u09af\u09bc"}
    assert around("bn", "ব") == {"প", "হ", "ন", "ল"}, "it stands on two keys"
    for row in ("فلإ ق", "a 1", "a b\u0301\u09bc ½"):
        with pytest.raises(UserError, match="keyboards/ar.tsv: .* is no key; write its letter and the one under Shift"):
            parse_keyboard(f"ar\tara\tArabic\t\t{row}\t\t", "keyboards/ar.tsv")


# --- how many edits, and which ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("kind", ["typo", "char"])
def test_edits_are_within_one_of_rate_times_letters(kind: str, language: str) -> None:
    if not applies(kind, language):
        return
    for rate in (1, 2, 5, 10, 20):
        for example in map(str, range(30)):
            made = noiser(kind, rate, language)
            made.text(TEXTS[language], example, "text")
            assert abs(made.tally.edits - rate * made.tally.letters / 100) < 1


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("kind", ["typo", "char", "case", "diacritics", "space"])
def test_edits_at_a_lower_rate_are_among_those_at_a_higher_one(kind: str, language: str) -> None:
    if not applies(kind, language):
        return
    before: set[tuple[int, int, str]] = set()
    for rate in (0, 1, 2, 5, 10, 20):
        changes = set(noiser(kind, rate, language).text(TEXTS[language], "1", "text").changes)
        assert before <= changes
        before = changes
    assert before or (kind == "diacritics" and language in ("ar", "he"))  # nobody writes them


@pytest.mark.parametrize("kind", KINDS)
def test_rate_0_is_the_same_text(kind: str) -> None:
    assert noisy(kind, 0, "de") == TEXTS["de"]


def test_what_an_example_gets_depends_on_its_name_and_on_no_other_example() -> None:
    made = noiser("typo", 10, "de")
    first = made.text(TEXTS["de"], "1", "text").text
    made.text(TEXTS["de"], "2", "text")
    assert made.text(TEXTS["de"], "1", "text").text == first
    others = {noisy("typo", 10, "de", example=str(n)) for n in range(8)}
    assert len(others) == 8 and noisy("typo", 10, "de", draw=2) != first


def test_these_strings_never_change() -> None:
    """Other strings are another test set: raise VERSION, and say so."""
    assert noisy("typo", 10, "de") == "Die Straß idt heute für Gußägnger gesperrt, sagte Jürgrn."


# --- laws of scripts --------------------------------------------------------------------------------------------------

LETTERS = {
    language: sorted({part for part in clusters_of(text) if part[0].isalpha()}) for language, text in TEXTS.items()
}


@st.composite
def sentences(draw: st.DrawFn) -> tuple[str, str]:
    """A language, and words made of its letters in any order."""
    language = draw(st.sampled_from(sorted(TEXTS)))
    words = st.lists(st.sampled_from(LETTERS[language]), min_size=1, max_size=6).map("".join)
    return language, " ".join(draw(st.lists(words, min_size=1, max_size=6)))


@given(sentences(), st.sampled_from(["typo", "char"]), st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_no_mark_is_ever_left_alone_and_no_word_vanishes(
    sentence: tuple[str, str], kind: str, rate: int, example: int
) -> None:
    language, text = sentence
    if not applies(kind, language):
        return
    made = noisy(kind, rate, language, text, str(example))
    assert lone_marks(made) == 0
    assert len(made.split(" ")) == len(text.split(" ")) and all(made.split(" "))
    if language == "ko":
        composed = unicodedata.normalize("NFC", made)
        assert made == composed and all("가" <= letter <= "힣" or letter == " " for letter in made)
    if language == "ja":
        assert unicodedata.normalize("NFC", made) == made  # が is never split


@given(sentences(), st.sampled_from(["case", "lowercase", "uppercase"]), st.integers(1, 100))
@settings(max_examples=80, deadline=None)
def test_case_changes_nothing_but_case(sentence: tuple[str, str], kind: str, rate: int) -> None:
    language, text = sentence
    if language not in CASED:
        return
    made = noisy(kind, rate, language, text)

    def folded(text: str) -> str:
        small = "".join(lower(letter, language) for letter in text)
        return small.replace("ß", "ss").replace("ς", "σ")

    assert folded(made) == folded(text)


@given(st.text(alphabet="".join(LETTERS["ka"] + LETTERS["hi"]) + " ", max_size=30), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_letters_without_case_stay_in_a_german_file(text: str, rate: int) -> None:
    for kind in ("case", "uppercase", "lowercase", "diacritics"):
        assert noisy(kind, rate, "de", f"{text} Straße").startswith(text)


@given(sentences())
@settings(max_examples=60, deadline=None)
def test_lost_marks_are_those_that_people_leave_out(sentence: tuple[str, str]) -> None:
    language, text = sentence
    made = "".join(without_marks(cluster) for cluster in clusters_of(text))
    if language in MARKS_CARRY_THE_WORD:
        assert made == text
    if language == "ru":
        assert made == text.replace("ё", "е").replace("Ё", "Е")  # й stays


@pytest.mark.parametrize(
    "kind, language, text, expected",
    [
        ("uppercase", "tr", "ışıklı iki", "IŞIKLI İKİ"),
        ("lowercase", "tr", "İstanbul Iğdır", "istanbul ığdır"),
        ("uppercase", "az", "i", "İ"),
        ("uppercase", "en", "i", "I"),
        ("uppercase", "de", "Straße", "STRASSE"),
        ("lowercase", "el", "ΟΔΟΣ ΣΟΦΟΣ", "οδος σοφος"),
        ("diacritics", "vi", "Đường ơi", "Duong oi"),
        ("diacritics", "pl", "łódź", "lodz"),
        ("diacritics", "tr", "ışığı", "isigi"),
        ("diacritics", "el", "Ότι ϊ ΐ", "Οτι ϊ ϊ"),
        ("diacritics", "ru", "Ёж ещё йод", "Еж еще йод"),
        ("diacritics", "uk", "їжак ґ", None),
        ("diacritics", "ar", "كَتَبَ", "كتب"),
        ("diacritics", "he", "שָׁלוֹם", "שלום"),
    ],
)
def test_at_rate_100_the_whole_text_is_changed(kind: str, language: str, text: str, expected: str | None) -> None:
    assert noisy(kind, 100, language, text) == (text if expected is None else expected)


def test_a_vowel_sign_stays_with_the_consonant_that_takes_the_place_of_another() -> None:
    for example in map(str, range(60)):
        made = noisy("typo", 20, "hi", "कि " * 10, example)
        assert lone_marks(made) == 0 and not any(f"{vowel}ि" in made for vowel in "अआइईउऊएऐओऔ")


@pytest.mark.parametrize("language", ["ko", "vi", "ru", "tr", "el", "yo"])
@pytest.mark.parametrize("kind", ["typo", "char", "case", "diacritics"])
def test_a_letter_of_several_characters_is_the_letter(kind: str, language: str) -> None:
    """macOS writes й as и and a breve, and a syllable of Hangul as its jamo: the errors are the same."""
    if not applies(kind, language):
        return
    text = TEXTS[language]
    apart = unicodedata.normalize("NFD", text)
    for rate in (20, 100):
        # Compared as composed: a new letter below an old mark, w and an acute, has a character of its own, too.
        forms = [unicodedata.normalize("NFC", noisy(kind, rate, language, given)) for given in (apart, text)]
        assert forms[0] == forms[1]


def test_an_exchanged_word_is_found_in_either_form() -> None:
    apart = unicodedata.normalize("NFD", "Grün")
    assert noiser("natural", 100, "de", apart, grün=("gruen",)).text(apart, "1", "text").text == "Gruen"


def test_korean_slips_happen_at_a_jamo() -> None:
    made = {noisy("typo", 100, "ko", "각", str(example)) for example in range(80)}
    assert {"가", "삭", "닥"} <= made  # the final is missed; ㅅ and ㄷ lie beside ㄱ
    assert all(len(text) <= 2 for text in made)


def test_arabic_lam_alif_is_typed_as_two_letters() -> None:
    for example in map(str, range(300)):
        made = noisy("typo", 20, "ar", TEXTS["ar"], example)
        assert not any("\ufe70" <= letter <= "\ufeff" for letter in made)


def test_the_first_slips_come_in_the_published_shares() -> None:
    counts = {"delete": 0, "insert": 0, "swap": 0, "replace": 0}
    text = Clusters("abcdefghij")
    writing = Writing("en", "Latin", keyboards()["en"].neighbours)
    for seed in range(4000):
        edit = KINDS["typo"].edit(Site(text, 4, writing, random.Random(seed), set(), [10]))
        assert edit is not None
        kinds = {(1, 0): "delete", (1, 2): "insert", (2, 2): "swap", (1, 1): "replace"}
        counts[kinds[edit.last - edit.first, len(edit.text)]] += 1
    shares = {name: round(number / 4000, 2) for name, number in counts.items()}
    assert shares["delete"] == pytest.approx(0.28, abs=0.02) and shares["insert"] == pytest.approx(0.15, abs=0.02)
    assert shares["replace"] == pytest.approx(0.28, abs=0.02) and shares["swap"] == pytest.approx(0.29, abs=0.02)


# --- words and protected text -----------------------------------------------------------------------------------------


def test_words_are_exchanged_with_their_case_and_others_stay() -> None:
    made = noiser("switch", 100, "de", straße=("street",), heute=("today", "nowadays"))
    text = made.text("Die Straße ist heute leer", "1", "text").text
    assert text in ("Die Street ist today leer", "Die Street ist nowadays leer")


def test_protected_characters_stay_and_offsets_move_with_the_text() -> None:
    text = TEXTS["de"]
    start = text.index("Fußgänger")
    for example in map(str, range(40)):
        made = noiser("typo", 20, "de").text(text, example, "text", [(start, start + 9)])
        moved = made.moved(start)
        assert made.text[moved : moved + 9] == "Fußgänger"


def test_given_words_stay_as_many_as_they_are() -> None:
    words = ("a", "U.S.", "1984", "Haus", ",", "ß")
    for kind in ("typo", "char", "case", "diacritics"):
        for example in map(str, range(60)):
            made = noiser(kind, 30, "de").tokens(words, example)
            assert len(made) == len(words) and all(made) and made[2] == "1984"
    with pytest.raises(Nowhere, match="space noise would change which words there are"):
        noiser("space", 5, "de").tokens(words, "1")


# --- the notation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("typo", "noise is written <task>@<kind>-<rate>"),
        ("tipo-5", "unknown noise 'tipo'; did you mean typo"),
        ("typo-101", "a rate is errors in 100 letters; give at most 100"),
        ("typo-5-s1", "the first has no number"),
        ("typo-05", "write xnli@typo-5"),
    ],
)
def test_a_name_that_is_no_noise_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_noise(f"xnli@{text}", text)


def test_a_keyboard_of_other_letters_is_refused() -> None:
    greek = parse_keyboard("de\tgr\tGreek\t\tς ε ρ\tα σ δ\tζ χ ψ", "keyboards/de.tsv")
    collected = Collector(parse_noise("x@typo-5", "typo-5"))
    collected.text(TEXTS["de"], "1", "text")
    with pytest.raises(UserError, match="the keyboard for 'de' has only 0% of the letters of the texts"):
        make_noiser(collected, "de", "xnli test de", {}, greek)
    with pytest.raises(UserError, match="keyboards/de.tsv: 3 columns"):
        parse_keyboard("de\tgr\tGreek", "keyboards/de.tsv")


def test_a_small_letter_is_no_capital_that_was_lost() -> None:
    assert noisy("lowercase", 100, "el", "Μέσ' στην ΟΔΟΣ") == "μέσ' στην οδος"  # before an apostrophe σ is right


def test_upper_and_lower_leave_georgian_alone() -> None:
    assert upper("ა", "ka") == "ა" and lower("ა", "ka") == "ა"
