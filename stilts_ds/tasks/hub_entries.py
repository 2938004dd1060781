"""Where the hub has the files of target tasks, as entries of their literals."""

from __future__ import annotations

from stilts_ds.tasks.spec import Hub

XTREME_COMMIT = "ec5f1f46e9af79639a90684a7a70a956c4998f04"
# The hub's own branch of parquet files of data sets that have a loading script, one folder a configuration.
PARQUET_BRANCH = "refs/convert/parquet"
# Treebanks of UD 2.7 that the hub has. It lacks the test file of Lithuanian HSE, and half a test set would be none.
UD27_ON_HUB = {"pl": "lfg pdb pud", "ro": "nonstandard rrt simonero", "uk": "iu", "wo": "wtb"}


def xtreme(schema: str, config: str, split: str, languages: tuple[str, ...] = ()) -> tuple[Hub, ...]:
    return (Hub(schema, "google/xtreme", config, split, XTREME_COMMIT, languages=languages),)


def tydiqa(split: str) -> tuple[Hub, ...]:
    """One data set for all languages: a row's id says which one it is in."""
    return (Hub("hub_tydiqa", "google/xtreme", "tydiqa", split, XTREME_COMMIT, names_language=True),)


def treebanks() -> tuple[Hub, ...]:
    """The test sets of UD 2.7, in the order of their files."""
    repo = "universal-dependencies/universal_dependencies"
    return tuple(
        Hub("hub_treebank", repo, f"{{language}}_{name}", "test", PARQUET_BRANCH, languages=(code,), in_folder=True)
        for code, names in UD27_ON_HUB.items()
        for name in names.split()
    )


def repo(schema: str, name: str, split: str, revision: str) -> tuple[Hub, ...]:
    return (Hub(schema, name, "{language}", split, revision),)
