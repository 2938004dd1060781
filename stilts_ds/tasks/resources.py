"""How much there is to learn a language from, three scales: data only, of XTREME-R's fifty languages.

`joshi` is the class of Joshi et al. 2020 (arXiv 2004.09095), 0 to 5, of the entry with the language's name. `cc100` is
the size of its part of CC-100 in GiB, None where it has none (Conneau et al. 2020, arXiv 1911.02116; Chinese: the
simplified script, the traditional one has 16.6 more); XLM-R was pretrained on CC-100. `syntax` is the distance of its
syntactic features from those of English (URIEL's k-nearest-neighbour predictions, Littell et al. 2017). `in_mbert`:
whether multilingual BERT was pretrained on its Wikipedia, whose size stands in stilts_ds.tasks.languages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageResources:
    """What a language has: see the module."""

    code: str
    joshi: int
    cc100: float | None
    syntax: float
    in_mbert: bool = True


_ALL = (
    LanguageResources("af", 3, 1.3, 0.1506),
    LanguageResources("ar", 5, 28, 0.3556),
    LanguageResources("az", 1, 6.5, 0.4666),
    LanguageResources("bg", 3, 57.5, 0.1422),
    LanguageResources("bn", 3, 8.4, 0.4166),
    LanguageResources("de", 5, 66.6, 0.0975),
    LanguageResources("el", 3, 46.9, 0.2169),
    LanguageResources("en", 5, 300.8, 0.0),
    LanguageResources("es", 5, 53.3, 0.1784),
    LanguageResources("et", 3, 6.1, 0.2162),
    LanguageResources("eu", 4, 2, 0.3765),
    LanguageResources("fa", 4, 111.6, 0.4794),
    LanguageResources("fi", 4, 54.3, 0.2892),
    LanguageResources("fr", 5, 56.8, 0.1882),
    LanguageResources("gu", 1, 1.9, 0.4166),
    LanguageResources("he", 3, 31.6, 0.2486),
    LanguageResources("hi", 4, 20.2, 0.3838),
    LanguageResources("ht", 2, None, 0.2703),
    LanguageResources("hu", 4, 58.4, 0.306),
    LanguageResources("id", 3, 148.3, 0.2735),
    LanguageResources("it", 4, 30.2, 0.1422),
    LanguageResources("ja", 5, 69.3, 0.4998),
    LanguageResources("jv", 1, 0.2, 0.3989),
    LanguageResources("ka", 3, 9.1, 0.3151),
    LanguageResources("kk", 3, 6.4, 0.5525),
    LanguageResources("ko", 4, 54.2, 0.4472),
    LanguageResources("lt", 3, 13.7, 0.3068),
    LanguageResources("ml", 1, 7.6, 0.4643),
    LanguageResources("mr", 2, 2.8, 0.4352),
    LanguageResources("ms", 3, 8.5, 0.2979),
    LanguageResources("my", 1, 0.4, 0.6051),
    LanguageResources("nl", 4, 29.3, 0.0757),
    LanguageResources("pa", 2, 0.8, 0.3873),
    LanguageResources("pl", 4, 44.6, 0.2136),
    LanguageResources("pt", 4, 49.1, 0.1576),
    LanguageResources("qu", 1, None, 0.5276, in_mbert=False),
    LanguageResources("ro", 3, 61.4, 0.2041),
    LanguageResources("ru", 4, 278, 0.1882),
    LanguageResources("sw", 2, 1.6, 0.5262),
    LanguageResources("ta", 3, 12.2, 0.4865),
    LanguageResources("te", 1, 4.7, 0.4794),
    LanguageResources("th", 3, 71.7, 0.3606),
    LanguageResources("tl", 3, 3.1, 0.3912),
    LanguageResources("tr", 4, 20.9, 0.4933),
    LanguageResources("uk", 3, 84.6, 0.1527),
    LanguageResources("ur", 3, 5.7, 0.3838),
    LanguageResources("vi", 4, 137.3, 0.3397),
    LanguageResources("wo", 2, None, 0.3609, in_mbert=False),
    LanguageResources("yo", 2, None, 0.3997),
    LanguageResources("zh", 5, 46.9, 0.2876),
)
RESOURCES: dict[str, LanguageResources] = {resources.code: resources for resources in _ALL}

JOSHI = ("high (classes 4 and 5)", "mid (class 3)", "low (classes 0 to 2)")
CC100 = ("more than 50 GiB", "10 to 50 GiB", "2 to 10 GiB", "at most 2 GiB", "not in CC-100")
PRETRAINING = ("in the pretraining", "not in the pretraining")
# Which pretraining a model had, by a part of its name: config.json tells the architecture, not the corpus.
_MODELS = {"xlm-r": "XLM-R", "xlmr": "XLM-R", "bert-base-multilingual": "mBERT", "mbert": "mBERT"}


def joshi_group(code: str) -> str:
    """Which of JOSHI a language is in."""
    joshi = RESOURCES[code].joshi
    if joshi >= 4:
        return JOSHI[0]
    return JOSHI[1] if joshi == 3 else JOSHI[2]


def cc100_group(code: str) -> str:
    """Which of CC100 a language is in."""
    size = RESOURCES[code].cc100
    if size is None:
        return CC100[-1]
    limits = zip((50.0, 10.0, 2.0), CC100)  # GiB; `zip` leaves out the groups below the last limit
    return next((group for limit, group in limits if size > limit), CC100[3])


def pretraining_of(model: str) -> str:
    """The kind of model by its name, `XLM-R` or `mBERT`; "" where the name does not tell."""
    # The last component only: a folder above it may name another model.
    name = model.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((kind for fragment, kind in _MODELS.items() if fragment in name), "")


def is_unseen(code: str, pretraining: str) -> bool:
    """Whether a model of this kind met no text in the language before it is trained here."""
    resources = RESOURCES[code]
    return resources.cc100 is None if pretraining == "XLM-R" else not resources.in_mbert
