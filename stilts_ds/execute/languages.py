"""The programming languages as data: commands, versions, files, steps, and how a test's end is made visible.

Each language knows up to two ways to a verdict. `together` puts program and tests into one process, and the tests'
last act prints a number that only this run knows; the verdict is marked weak, because a program may look for that
number. `sides` puts them into two processes between which only plain values cross.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stilts_ds.execute.policy import Limits

Given = dict[str, Any]  # files, steps, env: what `command_sides` reads
DRIVERS = Path(__file__).parent / "drivers"
PATH = "/usr/local/bin:/usr/bin:/bin"

# Runtimes that reserve gigabytes of address space; their writable memory is limited instead.
RESERVING = Limits(memory_mb=1536, memory_kind="data", total_mb=3072, processes=128, files=256)
COMPILING = Limits(memory_mb=2048, memory_kind="data", total_mb=3072, processes=96, files=256, scratch_mb=128)


@dataclass(frozen=True)
class Language:
    """One programming language. `commands` are needed, all of them; `version` is what names the toolchain."""

    name: str
    title: str
    commands: tuple[str, ...]
    version: tuple[str, ...]
    together: Callable[[str, str, str], Given] | None = None  # (program, tests, nonce)
    source: str = ""  # suffix of the two-process way's files, where there is one
    driver: tuple[str, ...] = ()  # interpreter of its driver
    compiler: tuple[str, ...] = ()  # of each of the two files, where one is needed
    limits: Limits = field(default_factory=Limits)
    warm: Callable[[], Given] | None = None  # what a new worker compiles once, into /cache
    cache_mb: int = 1
    compile_seconds: int = 0  # of the CPU and of the wall clock, for compiling one program
    aliases: tuple[str, ...] = ()
    opening: str = ""  # what a file of its own must begin with, where a benchmark's tests go on from the program's


def environment(**more: str) -> dict[str, str]:
    fixed = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0"}
    return {**fixed, "GOMAXPROCS": "1", **more}


def step(*argv: str) -> dict[str, Any]:
    """A command. The pool adds its limits: the compiler's, or those of the sample for the last step."""
    return {"argv": list(argv)}


# --- programs and tests together -------------------------------------------------------------------------------------


def _one_file(name: str, ending: str, *commands: dict[str, Any]) -> Callable[[str, str, str], Given]:
    def together(program: str, tests: str, nonce: str) -> Given:
        text = f"{program}\n{tests}\n{ending.replace('NONCE', nonce)}\n"
        return {"files": {name: text}, "steps": list(commands), "env": environment()}

    return together


JAVA_VM = ("-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Xss8m")
JAVAC_VM = tuple(f"-J{option}" for option in JAVA_VM)


def _java(program: str, tests: str, nonce: str) -> Given:
    """A class of its own calls the tests' main, so that the number is printed after it has returned."""
    last = (
        "public class StiltsRun { public static void main(String[] a) throws Exception "
        f'{{ Main.main(a); System.out.println("\\n{nonce}"); System.out.flush(); }} }}'
    )
    files = {"Main.java": f"{program}\n{tests}", "StiltsRun.java": last}
    compiler = step("javac", *JAVAC_VM, "-proc:none", "-nowarn", *files)
    run = step("java", *JAVA_VM, "-cp", ".", "StiltsRun")
    return {"files": files, "steps": [compiler, run], "env": environment()}


GO_ENVIRONMENT = {"GO111MODULE": "off", "GOFLAGS": "-p=1", "GOCACHE": "/cache/go", "GOTOOLCHAIN": "local"}


def _go(program: str, tests: str, nonce: str) -> Given:
    """The tests' main gets another name, and a main of a second file calls it."""
    renamed = re.sub(r"^func main\(\)", "func stiltsTests()", tests, flags=re.MULTILINE)
    last = f'package main\n\nfunc main() {{\n\tstiltsTests()\n\tstiltsSay("{nonce}\\n")\n}}\n'
    helper = 'package main\n\nimport "os"\n\nfunc stiltsSay(text string) {\n\tos.Stdout.WriteString("\\n" + text)\n}\n'
    files = {"main.go": f"{program}\n{renamed}", "last.go": last, "say.go": helper}
    # Without symbols: linking takes most of the time.
    compiler = step("go", "build", "-ldflags=-s -w", "-o", "program", *files)
    env = environment(**GO_ENVIRONMENT)
    return {"files": files, "steps": [compiler, step("./program")], "env": env}


def _go_warm() -> Given:
    """Compile what programs import, into the cache that later samples read."""
    packages = "fmt os errors strings strconv sort math math/big math/rand math/bits math/cmplx regexp reflect unicode "
    packages += "unicode/utf8 encoding/json bytes time container/heap container/list bufio crypto/md5 encoding/hex"
    imports = "\n".join(f'\t_ "{name}"' for name in packages.split())
    text = f"package main\n\nimport (\n{imports}\n)\n\nfunc main() {{}}\n"
    compiler = step("go", "build", "-ldflags=-s -w", "-o", "program", "main.go")
    return {"files": {"main.go": text}, "steps": [compiler], "env": environment(**GO_ENVIRONMENT)}


CPP_OPTIONS = ("-std=c++17", "-O1")


def _cpp(program: str, tests: str, nonce: str) -> Given:
    """The linker puts a function before the tests' main, which thereby stays a main, with its implied `return 0`.

    What stands first is the header that a worker has compiled once.
    """
    last = 'extern "C" int __real_main();\nextern "C" int __wrap_main() {\n    int status = __real_main();\n'
    last += f'    if (status == 0) std::puts("\\n{nonce}");\n    return status;\n}}\n'
    text = f"#include <bits/stdc++.h>\n{program}\n{tests}\n{last}"
    options = (*CPP_OPTIONS, "-I/cache/include", "-Wl,--wrap=main")
    compiler = step("g++", *options, "-o", "program", "main.cpp")
    return {"files": {"main.cpp": text}, "steps": [compiler, step("./program")], "env": environment()}


def _cpp_warm() -> Given:
    """A precompiled header is found before the header itself where its folder stands first on the path."""
    folder = "/cache/include/bits"
    make = f"mkdir -p {folder} && g++ {' '.join(CPP_OPTIONS)} -x c++-header -o {folder}/stdc++.h.gch all.h"
    files = {"all.h": "#include <bits/stdc++.h>\n"}
    return {"files": files, "steps": [step("sh", "-c", make)], "env": environment()}


# --- program and tests apart -----------------------------------------------------------------------------------------


def sides(language: Language, program: str, tests: str, entry: str, node_path: str = "") -> tuple[Given, Given]:
    """What the program's process and the tests' process are given."""
    suffix = DRIVERS.joinpath(f"driver.{language.source}").suffix
    driver = DRIVERS.joinpath(f"driver{suffix}").read_text(encoding="utf-8")
    result = []
    for side, text in (("program", program), ("tests", language.opening + tests)):
        written = f"{side}{suffix}"
        compilers = []
        files = {f"driver{suffix}": driver, written: text}
        if language.compiler:
            files = {f"driver{suffix}": driver, f"{side}.ts": text}
            compilers = [step(*(word.replace("NAME", side) for word in language.compiler))]
        last = step(*language.driver, f"driver{suffix}", side, entry)
        env = environment(NODE_PATH=node_path) if node_path else environment()
        result.append({"files": files, "steps": [*compilers, last], "env": env})
    return result[0], result[1]


NODE = ("node", "--max-old-space-size=512", "--stack-size=4000")
ESBUILD = ("esbuild", "NAME.ts", "--outfile=NAME.js", "--format=cjs", "--log-level=error")
PHP = ("php", "-n", "-d", "memory_limit=1G")


def _typescript(program: str, tests: str, nonce: str) -> Given:
    text = f'{program}\n{tests}\nconsole.log("\\n{nonce}")\n'
    compiler = step(*(word.replace("NAME", "main") for word in ESBUILD))
    return {"files": {"main.ts": text}, "steps": [compiler, step(*NODE, "main.js")], "env": environment()}


LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language("python", "Python", (), (), limits=Limits(), aliases=("py", "python3")),
        Language(
            "javascript",
            "JavaScript",
            ("node",),
            ("node", "--version"),
            _one_file("main.js", 'console.log("\\nNONCE")', step(*NODE, "main.js")),
            "js",
            NODE,
            limits=RESERVING,
            aliases=("js", "node"),
        ),
        Language(
            "typescript",
            "TypeScript",
            ("node", "esbuild"),
            ("esbuild", "--version"),
            _typescript,
            "js",
            NODE,
            ESBUILD,
            compile_seconds=15,
            limits=RESERVING,
            aliases=("ts",),
        ),
        Language(
            "php",
            "PHP",
            ("php",),
            ("php", "-n", "-r", "echo PHP_VERSION;"),
            _one_file("main.php", 'echo "\\nNONCE\\n";', step(*PHP, "main.php")),
            "php",
            PHP,
            opening="<?php\n",
        ),
        Language(
            "ruby",
            "Ruby",
            ("ruby",),
            ("ruby", "--version"),
            _one_file("main.rb", 'puts "\\nNONCE"', step("ruby", "main.rb")),
            "rb",
            ("ruby",),
            aliases=("rb",),
        ),
        Language(
            "perl",
            "Perl",
            ("perl",),
            ("perl", "-e", "printf '%vd', $^V"),
            _one_file("main.pl", 'print "\\nNONCE\\n";', step("perl", "main.pl")),
            "pl",
            ("perl",),
            aliases=("pl",),
        ),
        Language(
            "go",
            "Go",
            ("go",),
            ("go", "version"),
            _go,
            limits=COMPILING,
            warm=_go_warm,
            cache_mb=256,
            compile_seconds=60,
        ),
        Language(
            "java", "Java", ("javac", "java"), ("javac", "--version"), _java, limits=RESERVING, compile_seconds=60
        ),
        Language(
            "cpp",
            "C++",
            ("g++",),
            ("g++", "-dumpfullversion"),
            _cpp,
            limits=COMPILING,
            warm=_cpp_warm,
            cache_mb=512,
            compile_seconds=60,
            aliases=("c++", "cxx"),
        ),
    )
}
ALIASES = {alias: name for name, language in LANGUAGES.items() for alias in (name, *language.aliases)}


@cache
def missing(name: str, path: str = PATH) -> tuple[str, ...]:
    """The language's commands that are not there. What the sandbox shows counts: /usr, and what is made readable."""
    return tuple(command for command in LANGUAGES[name].commands if shutil.which(command, path=path) is None)


@cache
def toolchain(name: str, python: str = "/usr/bin/python3", path: str = PATH) -> str:
    """The version that the results name, such as `node v18.20.4`."""
    language = LANGUAGES[name]
    argv = language.version or (python, "--version")
    found = shutil.which(argv[0], path=path) or argv[0]
    shown = subprocess.run([found, *argv[1:]], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    first = (shown.stdout.strip() or shown.stderr.strip()).splitlines()[:1]
    text = first[0] if first else "unknown"
    return text if text.lower().startswith(argv[0].split("/")[-1][:2]) else f"{argv[0]} {text}"
