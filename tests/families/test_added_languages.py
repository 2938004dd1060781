"""The languages that XTREME-R adds: read from their own files, and never from those of another release."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
import ranks
from reader_files import conllu

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.sources.hub import offers
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.benchmarks import XTREME_R
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.spec import serves
from stilts_ds.tasks.treebanks import SENTENCES

REAL = ranks.SHARED / "data/xtreme_r"


@pytest.mark.data("xtreme_r")
@pytest.mark.parametrize("language", ["az", "lt", "pl", "ro", "uk"])
def test_tatoeba_has_a_thousand_pairs_of_each(language: str, tmp_path: Path) -> None:
    (tmp_path / "tatoeba").symlink_to(REAL / "tatoeba_r")
    task = XTREME_R.fitted(TASKS["tatoeba"])
    [bitext] = read_examples(task, "test", language, DataSource(xtreme=tmp_path))
    assert len(bitext.source) == len(bitext.pivot) == len(bitext.gold) == task.test_sizes[language] == 1_000
    with pytest.raises(UserError, match=f"tatoeba has no language '{language}'"):
        find_origin(TASKS["tatoeba"], "test", language, DataSource(xtreme=tmp_path))


# Characters of all `sentence1` and `sentence2` of mteb/tatoeba-bitext-mining, as mteb publishes their averages.
HUB_CHARACTERS = {
    "az": (27_775, 27_635),
    "lt": (31_300, 31_864),
    "pl": (34_105, 34_635),
    "ro": (35_843, 34_490),
    "uk": (29_231, 29_843),
}


@pytest.mark.data("xtreme_r")
@pytest.mark.parametrize("language", HUB_CHARACTERS)
def test_the_hubs_tatoeba_is_xtremes_with_a_line_break_to_each_sentence(language: str, tmp_path: Path) -> None:
    """So its `sentence1` is the side that is not English; its reader leaves the line breaks out."""
    (tmp_path / "tatoeba").symlink_to(REAL / "tatoeba_r")
    [bitext] = read_examples(XTREME_R.fitted(TASKS["tatoeba"]), "test", language, DataSource(xtreme=tmp_path))
    sides = (bitext.source, bitext.pivot)
    assert tuple(sum(len(sentence.text) + 1 for sentence in side) for side in sides) == HUB_CHARACTERS[language]


@pytest.mark.data("xtreme_r")
def test_xquad_asks_in_romanian(tmp_path: Path) -> None:
    [packed] = (REAL / "xquad_ro").glob("**/*.json.gz")
    (tmp_path / "xquad").mkdir()
    (tmp_path / "xquad/xquad.ro.json").write_bytes(gzip.decompress(packed.read_bytes()))
    task = XTREME_R.fitted(TASKS["xquad"])
    assert len(list(read_examples(task, "test", "ro", DataSource(xtreme=tmp_path)))) == task.test_sizes["ro"] == 1_190


def test_a_language_is_read_from_its_own_release_of_universal_dependencies(tmp_path: Path) -> None:
    """Both releases hold Polish; XTREME-R's Polish is of 2.7, and its German stays on 2.5."""
    for release, word in (("2.5", "old"), ("2.7", "new")):
        for name, code in (("UD_Polish-PDB", "pl_pdb"), ("UD_German-GSD", "de_gsd")):
            file = tmp_path / f"ud-treebanks-v{release}" / name / f"{code}-ud-test.conllu"
            file.parent.mkdir(parents=True)
            file.write_text(conllu(f"1 {word} {word} NOUN", ""))
    task, source = XTREME_R.fitted(TASKS["udpos"]), DataSource(xtreme=tmp_path)
    words = {code: [one.words for one in read_examples(task, "test", code, source)] for code in ("pl", "de")}
    assert words == {"pl": [("new",)], "de": [("old",)]}


def test_the_hub_serves_the_added_languages() -> None:
    """POS from the treebanks of UD 2.7, in the order of their files; it lacks one of Lithuanian, which is local."""
    hub, udpos = DataSource("hub"), XTREME_R.fitted(TASKS["udpos"])
    for name in ("panx", "udpos", "xquad", "tatoeba"):
        task = XTREME_R.fitted(TASKS[name])
        lacking = [code for code in task.languages if not hub.from_hub(task, "test", code)]
        assert lacking == ["lt"] * (name == "udpos")
        assert all(offers(task, "test", code) for code in task.languages if code not in lacking)
    for code in udpos.languages[-4:]:
        served = [entry.config.format(language=code) for entry in udpos.hub["test"] if serves(entry, code)]
        files = [path for path in SENTENCES if path.startswith("ud-treebanks-v2.7") and f"/{code}_" in path]
        assert served == [Path(path).name.partition("-")[0] for path in sorted(files)]


def test_the_sizes_of_the_added_treebanks_are_those_of_their_files() -> None:
    sizes: Counter[str] = Counter()
    for path, sentences in SENTENCES.items():
        if path.startswith("ud-treebanks-v2.7"):
            sizes[Path(path).name[:2]] += sentences
    assert dict(sizes) == XTREME_R.test_sizes["udpos"]
