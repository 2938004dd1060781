"""Problems known to be faulty or special, by benchmark: what is wrong with them, not with a model.

Each was found by executing the benchmark's own solutions (docs/execute.md has the command).
"""

from __future__ import annotations

from collections.abc import Collection

OBJECTS = "its tests need objects, types or modules of the program: one process, a weak verdict"
INDENTED = "the canonical solution is indented wrongly"
CONVERTED = "the conversion from MBPP damaged a text of the test"

CRATES_OF_TESTS = "the tests need the crate rand, and the sandbox has no crates: no program passes"
PACKAGE = "the canonical solution needs a package beside the language's own: {}"

# Known, not corrected: a score must stay one over the benchmark as it was published.
ERRATA: dict[str, dict[str, str]] = {
    "mbpp": {
        "MBPP/123": "the canonical solution takes about four CPU seconds and more on slow machines",
        **dict.fromkeys(("MBPP/367", "MBPP/533", "MBPP/596", "MBPP/601", "MBPP/927"), OBJECTS),
    },
    "mbpp_sanitized": {
        "MBPP/123": "the canonical solution takes about four CPU seconds and more on slow machines",
        "MBPP/596": OBJECTS,
    },
    "humaneval_x": {
        "Rust/32": "the tests stand in a comment: no program passes",
        **dict.fromkeys(("Rust/38", "Rust/50", "Rust/53"), CRATES_OF_TESTS),
        "Rust/91": PACKAGE.format("regex"),
        "Rust/162": PACKAGE.format("md5"),
        **dict.fromkeys(("CPP/22", "CPP/137"), PACKAGE.format("Boost")),
        "CPP/162": PACKAGE.format("OpenSSL"),
        **dict.fromkeys(
            ("JavaScript/112", "JavaScript/155"),
            "the canonical solution fails the tests, which console.assert alone would only print",
        ),
        "JavaScript/162": PACKAGE.format("js-md5"),
    },
    "mbxp": {
        **dict.fromkeys(
            ("MBPP/56", "MBPP/349", "MBPP/899", "MBPP/967"),
            "the entry point is called check, as the tests' function is; it is renamed here, so that the problem works",
        ),
        **dict.fromkeys(("MBPP/64", "MBPP/966"), INDENTED),
        **dict.fromkeys(("MBPP/367", "MBPP/927"), "the tests need a tree that the conversion left out"),
        "MBPP/601": "the tests need a class that the conversion left out",
        "MBPP/341": "the test expects a set's order, which differs between versions of Python",
        "MBPP/596": "the test expects sizes in bytes, which differ between versions of Python",
        **dict.fromkeys(("MBPP/160", "MBPP/607", "MBPP/631", "MBPP/642"), CONVERTED),
    },
}


def known_errata(benchmark: str, problems: Collection[str]) -> dict[str, str]:
    """Of these problems those with a known erratum, and what it is."""
    return {name: text for name, text in ERRATA.get(benchmark, {}).items() if name in problems}
