"""Go: how programs and tests become files and commands. Tests are a `main`, or functions as `go test` runs them."""

from __future__ import annotations

import re

from stilts_ds.execute.command_sides import WORK
from stilts_ds.execute.commands import DRIVERS, Given, given, step

ASSERT = "github.com/stretchr/testify/assert"
ASSERTIONS = frozenset({"New", "Equal"})  # what drivers/assert.go has of that package
VARIABLES = {
    "GO111MODULE": "off",
    "GOFLAGS": "-p=1",
    "GOCACHE": "/cache/go",
    "GOPATH": f"{WORK}/go",
    "GOTOOLCHAIN": "local",
}
# Without symbols: linking takes most of the time.
BUILD = ("go", "build", "-ldflags=-s -w", "-o", "program")
PACKAGES = (
    "fmt os errors strings strconv sort math math/big math/rand math/bits math/cmplx regexp reflect unicode "
    "unicode/utf8 encoding/json bytes time container/heap container/list bufio crypto/md5 encoding/hex testing"
)
# What HumanEval-X's own harness imports where a solution uses it, whatever its prompt imports.
IMPORTED = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")

TEST = re.compile(r"^func (Test\w*)\(\w+ \*testing\.T\)", re.MULTILINE)
# What a testing.T can do only for Go's own runner.
RUNNERS = re.compile(r"\b\w+\.(?:Run|Parallel|Cleanup|TempDir|Setenv|Chdir|Context|Deadline)\(")
MAIN = re.compile(r"^func main\(\)", re.MULTILINE)
PACKAGE = re.compile(r"^package \w+\s*$", re.MULTILINE)
IMPORT = re.compile(r'^import\s+(?:\(([^)]*)\)|((?:[\w.]+\s+)?"[^"]+"))', re.MULTILINE)
SPECIFICATION = re.compile(r'(?:([\w.]+)\s+)?"([^"]+)"')
# Comments and literals, in which no package is used.
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
SAY = 'package main\n\nimport "os"\n\nfunc stiltsSay(text string) {\n\tos.Stdout.WriteString("\\n" + text)\n}\n'


def go(program: str, tests: str, nonce: str) -> Given:
    if TEST.search(tests):
        return _test_functions(program, tests, nonce)
    # The tests' main gets another name, and the main of a second file calls it.
    renamed = MAIN.sub("func stiltsTests()", tests)
    last = f'package main\n\nfunc main() {{\n\tstiltsTests()\n\tstiltsSay("{nonce}\\n")\n}}\n'
    return _built({"main.go": f"{program}\n{renamed}", "last.go": last, "say.go": SAY})


def go_warm() -> Given:
    """Compile what programs import, into the cache that all workers read."""
    imports = "\n".join(f'\t_ "{name}"' for name in PACKAGES.split())
    text = f"package main\n\nimport (\n{imports}\n)\n\nfunc main() {{}}\n"
    return given({"main.go": text}, step(*BUILD, "main.go"), **VARIABLES)


def tests_problem(tests: str) -> str | None:
    """Why no program could pass these tests; None where one could."""
    if not TEST.search(tests) and not MAIN.search(tests):
        return "the tests have no `func main()` and no `func Test...(t *testing.T)`, so that none would run; add one"
    runner = TEST.search(tests) and RUNNERS.search(tests)
    if runner:
        return f"the tests call {runner[0]}), which needs Go's own runner of tests; write each as a function of its own"
    strange = sorted(set(re.findall(r"\bassert\.(\w+)\(", tests)) - ASSERTIONS) if ASSERT in tests else []
    if strange:
        return f"the tests call assert.{strange[0]}, and of {ASSERT} only New and Equal are here; write it with Equal"
    return None


def _test_functions(program: str, tests: str, nonce: str) -> Given:
    """HumanEval-X's form: tests are a file of their own. `testing` runs no test by itself here, because a program could
    change its flags so that it runs none; a test that fails or ends its goroutine ends the process."""
    calls = "".join(f'\tstiltsTest("{name}", {name})\n' for name in TEST.findall(tests))
    last = (
        f'package main\n\nimport (\n\t"os"\n\t"testing"\n)\n\nfunc main() {{\n{calls}\tstiltsSay("{nonce}\\n")\n}}\n\n'
        "func stiltsTest(name string, test func(*testing.T)) {\n\tt := new(testing.T)\n\ttest(t)\n\tif t.Failed() {\n"
        '\t\tos.Stderr.WriteString(name + " fails\\n")\n\t\tos.Exit(1)\n\t}\n}\n'
    )
    sources = {"program.go": with_imports(program), "tests.go": with_imports(tests), "last.go": last, "say.go": SAY}
    return _built(sources, {f"go/src/{ASSERT}/assert.go": DRIVERS.joinpath("assert.go").read_text(encoding="utf-8")})


def _built(sources: dict[str, str], packages: dict[str, str] | None = None) -> Given:
    return given(sources | (packages or {}), step(*BUILD, *sources), step("./program"), **VARIABLES)


def with_imports(text: str) -> str:
    """A file of package main that imports what it uses: Go refuses an import that is not used, and a prompt's imports
    are those of the benchmark's own solution."""
    imported = [spec for block in IMPORT.findall(text) for spec in SPECIFICATION.findall("".join(block))]
    code = IMPORT.sub("", PACKAGE.sub("", text, count=1))
    used = set(re.findall(r"\b(\w+)\.", NO_CODE.sub(" ", code)))
    kept = [(alias, path) for alias, path in imported if alias in ("_", ".") or _name(alias, path) in used]
    named = {_name(alias, path) for alias, path in kept}
    kept += [("", path) for path in IMPORTED if _name("", path) in used - named]
    imports = "".join(f'\t{alias} "{path}"\n' for alias, path in kept)
    return f"package main\n\nimport (\n{imports})\n{code}"


def _name(alias: str, path: str) -> str:
    return alias or path.rsplit("/", 1)[-1]
