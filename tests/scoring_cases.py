"""The benchmark's nine tasks as literals, for the scoring tests."""

from pathlib import Path

from stilts_ds.tasks.spec import Family, Task

MOCK = Path(__file__).resolve().parents[2] / "shared" / "data" / "xtreme_mock"
NO_MOCK = "the benchmark's mock submission (../shared/data/xtreme_mock) is not here"
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
BIO = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
PANX = (
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh kk tr et "
    "fi hu"
)
UDPOS = "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
NLI = ("contradiction", "entailment", "neutral")


def task(name: str, family: Family, languages: str, metrics: str, labels: tuple[str, ...] = ()) -> Task:
    return Task(name, family, "target", tuple(languages.split()), tuple(metrics.split()), {}, labels=labels)


XTREME = {
    t.name: t
    for t in (
        task("udpos", "tag", UDPOS, "f1", tuple(UPOS.split())),
        task("panx", "tag", PANX, "f1", BIO),
        task("xnli", "pair", "ar bg de el en es fr hi ru sw th tr ur vi zh", "accuracy", NLI),
        task("pawsx", "pair", "de en es fr ja ko zh", "accuracy", ("0", "1")),
        task("xquad", "span", "en es de el ru tr ar vi th zh hi", "f1 exact_match"),
        task("mlqa", "span", "en es de ar hi vi zh", "mlqa_f1 mlqa_exact_match"),
        task("tydiqa", "span", "en ar bn fi id ko ru sw te", "f1 exact_match"),
        task("bucc2018", "bitext", "de fr ru zh", "f1"),
        task("tatoeba", "bitext", " ".join(x for x in PANX.split() if x not in ("en", "ms", "my", "yo")), "accuracy"),
    )
}
