"""Whether what was scored is the benchmark's own test set, by its number of examples in each language."""

from __future__ import annotations

from collections.abc import Mapping

from stilts_ds.tasks.spec import Task

Sizes = Mapping[str, int]  # language -> examples


def benchmark_sizes(task: Task, split: str) -> dict[str, int]:
    """Examples of the benchmark's test set by language, as far as they are known; {} for any other split."""
    return dict(task.test_sizes) if split == "test" else {}


def other_sizes(counts: Sizes, benchmark: Sizes) -> dict[str, tuple[int, int]]:
    """Languages with another number of examples than the benchmark's: (found, the benchmark's)."""
    known = {language: benchmark[language] for language in counts if language in benchmark}
    return {language: (counts[language], size) for language, size in known.items() if counts[language] != size}


def unknown_sizes(counts: Sizes, benchmark: Sizes) -> tuple[str, ...]:
    """Languages of which nobody knows here how many examples the benchmark has."""
    return tuple(language for language in counts if language not in benchmark)


def sizes_text(others: Mapping[str, tuple[int, int]]) -> str:
    """`de 977 instead of 22,358; fr ru 10 instead of 1,000`."""
    by_sizes: dict[tuple[int, int], list[str]] = {}
    for language, sizes in others.items():
        by_sizes.setdefault(sizes, []).append(language)
    groups = [f"{' '.join(codes)} {count:,} instead of {size:,}" for (count, size), codes in by_sizes.items()]
    return "; ".join(groups)
