"""The benchmark's nine tasks as literals, for the scoring tests."""

import ranks

from stilts_ds.tasks.spec import Task

# The benchmark's mock submission; tests that read it have the mark `data`.
MOCK = ranks.SHARED / "data" / "xtreme_mock"
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
BIO = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
PANX = (
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh kk tr et "
    "fi hu"
)
UDPOS = "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
TATOEBA = " ".join(code for code in PANX.split() if code not in ("en", "ms", "my", "yo"))
NLI = ("contradiction", "entailment", "neutral")


def task(
    name: str, family: str, languages: str, metrics: str, main_score: str, labels: tuple[str, ...] = (), **more: str
) -> Task:
    codes = tuple(languages.split())
    return Task(name, family, "target", codes, tuple(metrics.split()), main_score, {}, labels=labels, **more)


CHUNKS = "f1 precision recall token_accuracy"
ANSWERS = "exact_match f1"


XTREME = {
    t.name: t
    for t in (
        task("udpos", "tag", UDPOS, CHUNKS, "f1", tuple(UPOS.split())),
        task("panx", "tag", PANX, CHUNKS, "f1", BIO),
        task("xnli", "pair", "ar bg de el en es fr hi ru sw th tr ur vi zh", "accuracy", "accuracy", NLI),
        task("pawsx", "pair", "de en es fr ja ko zh", "accuracy", "accuracy", ("0", "1")),
        task("xquad", "span", "en es de el ru tr ar vi th zh hi", ANSWERS, "exact_match_f1"),
        task("mlqa", "span", "en es de ar hi vi zh", ANSWERS, "exact_match_f1", answer_rules="mlqa"),
        task("tydiqa", "span", "en ar bn fi id ko ru sw te", ANSWERS, "exact_match_f1"),
        task("bucc2018", "bitext", "de fr ru zh", "f1 precision recall", "f1", predictions="pairs"),
        task("tatoeba", "bitext", TATOEBA, "accuracy", "accuracy", predictions="nearest"),
    )
}
