"""How the benchmarks' tests compare, and what is put in place of a comparison that lets wrong programs pass.

The texts are those of MBXP, multilingual HumanEval and HumanEval-XL, whose tests are generated and so all alike.
"""

from __future__ import annotations

# language -> (the benchmark's words, the strict ones)
STRICT: dict[str, tuple[tuple[str, str], ...]] = {
    # PHP's == says that true equals every array that is not empty, and every string that is not "0".
    "php": (("return $x == $y;", "return Stilts::equal($x, $y);"),),
    # assert.deepEqual compares with ==, for which "1" is 1 and [] is "".
    "typescript": (("assert.deepEqual(", "assert.deepStrictEqual("),),
    # console.assert prints and goes on: `return undefined` ends with exit status 0.
    "javascript": (("console.assert(", "require('assert').ok("),),
}

# What the strict words need where program and tests share a process.
TOGETHER: dict[str, str] = {
    "php": (
        "final class Stilts { public static function equal($x, $y): bool {\n"
        "if ((is_int($x) || is_float($x)) && (is_int($y) || is_float($y))) return $x == $y;\n"
        "if (!is_array($x) || !is_array($y)) return $x === $y;\n"
        "if (count($x) !== count($y)) return false;\n"
        "foreach ($x as $key => $item) {\n"
        "if (!array_key_exists($key, $y) || !self::equal($item, $y[$key])) return false; }\n"
        "return true; } }\n"
    )
}


def strict_tests(language: str, tests: str) -> str:
    """The tests with the strict comparison in place of the benchmark's."""
    for loose, strict in STRICT.get(language, ()):
        tests = tests.replace(loose, strict)
    return tests


def with_comparison(language: str, tests: str) -> str:
    """What one process needs beside the tests: the strict comparison is the driver's otherwise."""
    needed = TOGETHER.get(language, "")
    return needed + tests if "Stilts::" in tests and needed else tests
