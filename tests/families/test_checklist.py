"""MultiCheckList: cases from a table of templates, what is refused in it, error rates by case."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import ranks
from stilts_launcher import cli

from stilts_ds.checklist.cases import Case, draw_cases
from stilts_ds.checklist.templates import Table, forms_of, read_templates
from stilts_ds.checklist.write import write_checklist
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.families.span.checklist import METRICS, count_cases, normalise
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.benchmarks import BENCHMARKS
from stilts_ds.tasks.registry import get_task

REAL = ranks.SHARED / "data/xtreme_r/multichecklist/checklist_templates.tsv.gz"
EXAMPLES = {"comparison": 2, "intensifiers": 12, "properties": 2, "profession": 8, "animal": 4, "animal_2": 4}
# A table in the published schema: English, and a made-up language in which fill-ins ask for other words.
TABLE = """\
Field\ten\tqq\tqq-placeholders\tqq\tqq-placeholders
Name\tA is COMP than B. Who is more / less COMP?
Capability\tVocabulary
Context\t{first_name} is {adj[0]} than {first_name1}.\t{first_name} po {adj[0]}, {first_name1} ne.
Question\tWho is less {adj[1]}?\tKe ne {adj[1]}?\told\tKe mal {adj[1]}?\ttall
Answer\t{first_name1}\t{first_name1}
Question\tWho is {adj[0]}?\tKe {adj[0]}?
Answer\t{first_name}\t{first_name}
adj\tolder, old\tsene، sen
adj\ttaller, tall\tgrane، gran
adj\tkinder, kind\tbone، bon

Name\tIntensifiers (very, super, extremely) and reducers (somewhat, kinda, etc)?
Context\t{first_name} is {very} {s}. {first_name1} is {s}.\t{first_name} {very} {s}. {first_name1} {s}.
Question\tWho is most {s}?\tKe plus {s}?
Answer\t{first_name}\t{first_name}
state\thappy\tfelis
very\tvery\ttre
somewhat\ta little\tiom

Name\tsize, shape, age, color
Context\tThere is {obj[0]}. {obj[1]} is {p.v1} and {p.v2}.\tEs {obj[0]}. {obj[1]} es {p.v1} e {p.v2}.
Question\tWhat {p.p1} is {obj[1]}?\tKe {p.p1} {obj[1]}?\tcolor, size, shape, material\tCua {obj[1]} nova?\tage
Answer\t{p.v1}\t{p.v1}
Question\tWhat {p.p2} is {obj[1]}?\tKe {p.p2} {obj[1]}?\tcolor, size, shape, material\tCua {obj[1]} nova?\tage
Answer\t{p.v2}\t{p.v2}
obj\ta lamp, the lamp\tuna lamba, lamba
obj\ta box, the box\tun caso, caso
color\tred\troso\ta box, the box\trosa\tlamp
size\tbig\tgranda
age\told\tvecia
shape\tround\ttonda
material\tiron\tfero
property\tcolor\tcolor
property\tsize\tgrandesa
property\tage\taia
property\tshape\tforma
property\tmaterial\tmateria

Name\tProfession vs nationality
Context\t{first_name} is {profession} and {nationality}.\t{first_name} es {profession} e {nationality}.
Question\tWhat is {first_name}'s job?\tKe laboro de {first_name}?
Answer\t{profession}\t{profession}
nationality\tIndian\tindano
profession\ta nurse\tsanera

Name\tAnimal vs Vehicle
Context\t{first_name} has {animal} and {vehicle}.\t{first_name} ha {animal}m e {vehicle}n.
Context\t{first_name} has {vehicle} and {animal}.\t{first_name} ha {vehicle}m e {animal}n.
Question\tWhat animal does {first_name} have?\tKe bestia ha {first_name}?
Answer\t{animal}\t{animal}m\t{animal}n
animal\ta dog\tcan\tHAS\tkan\t{first_name} bought {animal}.
vehicle\ta car\tcaro

Name\tAnimal vs Vehicle v2
Context\t{first_name} bought {animal}.\t{first_name} pris {animal}.
Question\tWho bought an animal?\tKe pris bestia?
Answer\t{first_name}\t{first_name}
""".replace("HAS", "{first_name} has {animal} and {vehicle}., {first_name} has {vehicle} and {animal}., {animal}")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "templates.tsv"
    path.write_text(TABLE)
    return path


def one_of(table: Table, language: str, test: str, part: str, cases: int = 1) -> Case:
    """The first case of a test that holds a text."""
    drawn = [case for case in draw_cases(table, language, 1, cases) if case.test == test]
    return next(case for case in drawn if any(part in e.context + e.question for e in case.examples))


def test_a_case_is_every_context_with_every_question(table: Path) -> None:
    cases = list(draw_cases(read_templates(table), "en", 1, 1))
    assert [case.test for case in cases] == list(EXAMPLES)
    assert [len(case.examples) for case in cases] == [2, 1, 2, 1, 2, 1]
    [animal] = [case for case in cases if case.test == "animal"]
    assert [example.id for example in animal.examples] == ["animal.0.0", "animal.0.1"]
    name = animal.examples[0].question.split()[3]
    assert [example.context for example in animal.examples] == [
        f"{name} has a dog and a car.", f"{name} has a car and a dog.",
    ]  # fmt: skip
    assert {example.answer for example in animal.examples} == {"a dog"}


def test_what_is_drawn_depends_on_seed_test_and_number_alone(table: Path) -> None:
    read = read_templates(table)
    first = list(draw_cases(read, "en", 3, 4))
    assert first == list(draw_cases(read, "en", 3, 4)) != list(draw_cases(read, "en", 4, 4))
    fewer = [case for case in first if case.number < 2]
    assert fewer == list(draw_cases(read, "en", 3, 2))
    # Languages say the same cases, each in its own words.
    there = next(case for case in draw_cases(read, "qq", 3, 1) if case.test == "animal_2")
    here = next(case for case in first if case.test == "animal_2" and case.number == 0)
    assert there.examples[0].answer == here.examples[0].answer


def test_words_follow_the_fill_ins_that_the_table_names(table: Path) -> None:
    """Gender by object, questions by property, case by template, and of two answers the one in the context."""
    read = read_templates(table)
    cases = list(draw_cases(read, "qq", 1, 6))
    texts = [(e.context, e.question, e.answer) for case in cases for e in case.examples if case.test == "properties"]
    reds = [context for context, _, _ in texts if "ros" in context]
    assert reds and all(("rosa" in context) == ("Lamba" in context) for context in reds)
    ages = [(question, answer) for _, question, answer in texts if answer == "vecia"]
    assert ages and all(question in ("Cua lamba nova?", "Cua caso nova?") for question, _ in ages)
    animal = next(case for case in cases if case.test == "animal")
    assert [example.answer for example in animal.examples] == ["canm", "cann"]
    assert " pris kan." in next(case for case in cases if case.test == "animal_2").examples[0].context
    # The table has no question for `kinder`, so that it is never drawn.
    asked = {e.question for case in draw_cases(read, "qq", 1, 30) for e in case.examples if case.test == "comparison"}
    assert asked == {"Ke ne sen?", "Ke sene?", "Ke mal gran?", "Ke grane?"}


@pytest.mark.parametrize(
    "text, forms",
    [("a sofa, the sofa", ["a sofa", "the sofa"]), ("أكبر، كبير", ["أكبر", "كبير"]), ("更高，矮", ["更高", "矮"]),
     ("ဆိုဖာ တစ်ခု၊, ဆိုဖာ", ["ဆိုဖာ တစ်ခု", "ဆိုဖာ"]), ("โซฟา โซฟา", ["โซฟา", "โซฟา"])],
)  # fmt: skip
def test_forms_stand_side_by_side_in_every_script(text: str, forms: list[str]) -> None:
    assert forms_of(text) == forms


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("Who is {adj[0]}?", "Who is {adjective}?", r":7: unknown placeholder \{adjective\}.*has first_name, "),
        ("Who is {adj[0]}?", "Who is {adj[0]?", r":7: a brace in 'Who is \{adj\[0\]\?' has no partner"),
        ("Name\tAnimal vs Vehicle\n", "Name\tAnimal vs Plant\n", r":47: unknown test 'Animal vs Plant'; did you mean"),
        ("somewhat\ta little", "sometimes\ta little", r":19: unknown row 'sometimes' of the test 'Intensifiers"),
        ("Field\ten", "Field\tde", r":1: the columns are not `Field`, `en`"),
        (
            "\tqq\tqq-placeholders\tqq\t",
            "\t../q\tqq-placeholders\tqq\t",
            r":1: the column '\.\./q' is no language code",
        ),
    ],
)
def test_a_faulty_table_is_refused_with_its_line(old: str, new: str, problem: str, table: Path) -> None:
    assert old in TABLE
    table.write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=r"templates\.tsv" + problem):
        read_templates(table)


def test_what_a_table_cannot_give_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="qq: the table has no texts for .* different cases of .*fewer with --cases"):
        write_checklist(table, tmp_path / "out", ["qq"], cases=40)
    with pytest.raises(UserError, match="--language xx: .* has no such column"):
        write_checklist(table, tmp_path / "out", ["xx"])
    with pytest.raises(UserError, match="--cases 0: give at least 1"):
        write_checklist(table, tmp_path / "out", cases=0)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text; unpack"):
        read_templates(table)


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_task_reads(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Files of the table's columns; `af` is one of the task's languages.
    table.write_text(TABLE.replace("qq", "af"))
    folder = tmp_path / "xtreme/multichecklist"
    assert cli.main(["checklist", str(table), "--output", str(folder), "--cases", "3", "--language", "af"]) == 0
    assert capsys.readouterr().out == "af: 18 cases, 27 examples\n"
    written = json.loads((folder / "test-af.json").read_text())
    assert (written["seed"], written["cases"]) == (1, 3) and len(written["data"]) == 18
    question = written["data"][0]["paragraphs"][0]["qas"][0]
    assert (question["id"], question["test"], question["case"]) == ("comparison.0.0", "comparison", 0)
    read = list(read_examples(get_task("multichecklist"), "test", "af", DataSource(xtreme=tmp_path / "xtreme")))
    assert len(read) == 27
    assert all(span.context.startswith(span.answers[0].text, span.answers[0].start) for span in read)
    question["id"] = "q1"
    (folder / "test-af.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: 'q1' is no id of MultiCheckList"):
        list(read_examples(get_task("multichecklist"), "test", "af", DataSource(xtreme=tmp_path / "xtreme")))


@pytest.mark.data("xtreme_r/multichecklist/checklist_templates.tsv.gz")
def test_the_published_table_gives_6400_examples_a_language(tmp_path: Path) -> None:
    path = tmp_path / "templates.tsv"
    path.write_bytes(gzip.decompress(REAL.read_bytes()))
    read = read_templates(path)
    assert tuple(read) == get_task("multichecklist").languages and len(read) == 50
    assert "ha" in read and "ro" not in read  # against what is written beside the table
    for language in ("ka", "ru"):  # one text for everything, and eight columns of them
        cases = list(draw_cases(read, language))
        assert len(cases) == 1_200
        for name, examples in EXAMPLES.items():
            sizes = {len(case.examples) for case in cases if case.test == name}
            assert sizes == {examples}, (language, name)
        everything = [example for case in cases for example in case.examples]
        assert len(everything) == get_task("multichecklist").test_sizes[language] == 6_400
        assert all(example.answer in example.context for example in everything)
    georgian = {e.context[0] for case in draw_cases(read, "ka", cases=5) for e in case.examples}
    assert not any("Ა" <= letter <= "Ჿ" for letter in georgian)  # no capitals, which tokenizers do not know


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "language, answer, plain",
    [("en", "a big dog.", "big dog"), ("de", "einen Hund", "Hund"), ("af", "’n hond", "hond"), ("tl", "Si Ana", "Ana"),
     ("ar", "الكلب", "كلب"), ("hi", "एक कुत्ता", "कुत्ता"), ("pl", "„pies”", "pies"), ("ha", "a dog", "a dog"),
     ("en", "annual", "annual"), ("en", "A dog", "A dog")],
)  # fmt: skip
def test_an_answer_is_compared_without_its_languages_articles(language: str, answer: str, plain: str) -> None:
    assert normalise(answer, language) == plain


def test_one_wrong_answer_of_twelve_fails_a_case() -> None:
    def asked(test: str, case: int, number: int) -> Span:
        return Span(f"{test}.{case}.{number}", "?", "Ann has a dog.", (Answer("a dog", 8),))

    gold = [asked("intensifiers", case, number) for case in range(2) for number in range(12)]
    gold += [asked("animal", case, number) for case in range(3) for number in range(4)]
    answers = {span.id: "the dog" for span in gold}
    units = count_cases(gold, answers, "en")
    assert {name: metric.score(units) for name, metric in METRICS.items()} == dict.fromkeys(METRICS, 0.0)
    answers["intensifiers.1.7"] = "dogs"
    answers["animal.0.0"] = answers["animal.0.3"] = ""
    units = count_cases(gold, answers, "en")
    scores = {name: metric.score(units) for name, metric in METRICS.items()}
    assert len(units.names) == 5 and scores["error_rate"] == 100 * 2 / 5
    assert scores["error_intensifiers"] == 50 and scores["error_animal"] == pytest.approx(100 / 3)
    assert scores["error_comparison"] == 0


def test_error_rates_are_in_no_average() -> None:
    task = get_task("multichecklist")
    assert not task.in_averages and all(task.name not in benchmark.tasks for benchmark in BENCHMARKS.values())
    assert {metric.diagnostic for metric in family_of(task).metrics(task).values()} == {True}
