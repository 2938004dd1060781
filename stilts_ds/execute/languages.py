"""The programming languages as data: commands, versions, limits, and which ways to a verdict each one has.

`together` puts program and tests into one process; such a verdict is marked weak, because a program may look for the
number that the tests print at their end. Languages with a `driver` have a two-process way, as Python has.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from stilts_ds.execute import commands, golang
from stilts_ds.execute.commands import NODE, PATH, PHP_COMMAND, Given, Together, script
from stilts_ds.execute.policy import SandboxLimits

# Runtimes that reserve gigabytes of address space; their writable memory is limited instead.
RESERVING = SandboxLimits(memory_mb=1536, memory_kind="data", total_mb=3072, processes=128, files=256)
COMPILING = SandboxLimits(memory_mb=2048, memory_kind="data", total_mb=3072, processes=96, files=256, scratch_mb=128)


VERSION_SECONDS = 120  # for the command that names a version; Kotlin's takes seconds on an idle machine


@dataclass(frozen=True)
class ProgrammingLanguage:
    """One programming language. `tools` are the commands that it needs, all of them."""

    name: str
    title: str
    tools: tuple[str, ...]
    version: tuple[str, ...]  # the command that names the toolchain
    together: Together | None = None
    driver: str = ""  # suffix of the two-process way's files, where there is one
    interpreter: tuple[str, ...] = ()  # of that driver
    typed: bool = False  # its files are compiled to the driver's language
    opening: str = ""  # what a file of its own must begin with, where a benchmark's tests go on from the program's
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    compile_seconds: int = 0  # of the CPU and of the wall clock, for compiling one program
    warm: Callable[[], Given] | None = None  # what is compiled once, into /cache
    server: tuple[str, ...] = ()  # compiler and options of its compile server
    stand_in: str = ""  # what the results say of a library that tests name and a file in drivers/ stands in for
    library: str = ""  # command whose installation holds the compiler's and the language's class files
    aliases: tuple[str, ...] = ()


PYTHON = ProgrammingLanguage(
    name="python",
    title="Python",
    tools=(),
    version=(),
    aliases=("py", "python3"),
)
JAVASCRIPT = ProgrammingLanguage(
    name="javascript",
    title="JavaScript",
    tools=("node",),
    version=("node", "--version"),
    together=script("main.js", 'console.log("\\nNONCE")', NODE),
    driver="js",
    interpreter=NODE,
    limits=RESERVING,
    aliases=("js", "node"),
)
TYPESCRIPT = ProgrammingLanguage(
    name="typescript",
    title="TypeScript",
    tools=("node", "esbuild"),
    version=("esbuild", "--version"),
    together=commands.typescript,
    driver="js",
    interpreter=NODE,
    typed=True,
    limits=RESERVING,
    compile_seconds=15,
    aliases=("ts",),
)
PHP = ProgrammingLanguage(
    name="php",
    title="PHP",
    tools=("php",),
    version=("php", "-n", "-r", "echo PHP_VERSION;"),
    together=script("main.php", 'echo "\\nNONCE\\n";', PHP_COMMAND),
    driver="php",
    interpreter=PHP_COMMAND,
    opening="<?php\n",
)
RUBY = ProgrammingLanguage(
    name="ruby",
    title="Ruby",
    tools=("ruby",),
    version=("ruby", "--version"),
    together=script("main.rb", 'puts "\\nNONCE"', ("ruby",)),
    driver="rb",
    interpreter=("ruby",),
    aliases=("rb",),
)
PERL = ProgrammingLanguage(
    name="perl",
    title="Perl",
    tools=("perl",),
    version=("perl", "-e", "printf '%vd', $^V"),
    together=script("main.pl", 'print "\\nNONCE\\n";', ("perl",)),
    driver="pl",
    interpreter=("perl",),
    aliases=("pl",),
)
GO = ProgrammingLanguage(
    name="go",
    title="Go",
    tools=("go",),
    version=("go", "version"),
    together=golang.go,
    limits=COMPILING,
    compile_seconds=60,
    warm=golang.go_warm,
    stand_in="a stand-in for testify",
    aliases=("golang",),
)
JAVA = ProgrammingLanguage(
    name="java",
    title="Java",
    tools=("javac", "java"),
    version=("javac", "--version"),
    together=commands.java,
    limits=RESERVING,
    compile_seconds=60,
    server=("java", "-proc:none", "-nowarn"),
)
KOTLIN = ProgrammingLanguage(
    name="kotlin",
    title="Kotlin",
    tools=("kotlinc", "javac", "java"),
    version=("kotlinc", "-version"),
    together=commands.kotlin,
    limits=RESERVING,
    compile_seconds=120,
    server=("kotlin", "-no-stdlib", "-no-reflect", "-nowarn"),
    library="kotlinc",
    aliases=("kt",),
)
SCALA = ProgrammingLanguage(
    name="scala",
    title="Scala",
    tools=("scalac", "javac", "java"),
    version=("scalac", "-version"),
    together=commands.scala,
    limits=RESERVING,
    compile_seconds=120,
    server=("scala", "-usejavacp", "-nowarn"),
    library="scalac",
)
CPP = ProgrammingLanguage(
    name="cpp",
    title="C++",
    tools=("g++",),
    version=("g++", "-dumpfullversion"),
    together=commands.cpp,
    limits=COMPILING,
    compile_seconds=60,
    warm=commands.cpp_warm,
    aliases=("c++", "cxx"),
)
CSHARP = ProgrammingLanguage(
    name="csharp",
    title="C#",
    tools=("mcs", "mono"),
    version=("mono", "--version"),
    together=commands.csharp,
    limits=RESERVING,
    compile_seconds=60,
    stand_in="a stand-in for CompareNetObjects",
    aliases=("c#", "cs"),
)
RUST = ProgrammingLanguage(
    name="rust",
    title="Rust",
    tools=("rustc",),
    version=("rustc", "--version"),
    together=commands.rust,
    limits=COMPILING,
    compile_seconds=60,
    aliases=("rs",),
)
SWIFT = ProgrammingLanguage(
    name="swift",
    title="Swift",
    tools=("swiftc",),
    version=("swiftc", "--version"),
    together=commands.swift,
    limits=COMPILING,
    compile_seconds=60,
)

_ALL = (
    PYTHON,
    JAVASCRIPT,
    TYPESCRIPT,
    PHP,
    RUBY,
    PERL,
    GO,
    JAVA,
    KOTLIN,
    SCALA,
    CPP,
    CSHARP,
    RUST,
    SWIFT,
)
LANGUAGES: dict[str, ProgrammingLanguage] = {language.name: language for language in _ALL}
ALIASES = {alias: language.name for language in _ALL for alias in (language.name, *language.aliases)}


@cache
def missing(name: str, path: str = PATH) -> tuple[str, ...]:
    """The language's commands that are not there. What the sandbox shows counts: /usr, and what is made readable."""
    return tuple(tool for tool in LANGUAGES[name].tools if shutil.which(tool, path=path) is None)


def class_path(language: ProgrammingLanguage, path: str = PATH) -> str:
    """All class files beside the language's compiler (`bin/scalac` and `lib/*.jar`), and "" where it needs none."""
    if not language.library:
        return ""
    command = shutil.which(language.library, path=path)
    assert command is not None, "asked for after `missing`"
    return str(Path(command).resolve().parents[1] / "lib" / "*")


@cache
def toolchain(name: str, python: str = "/usr/bin/python3", path: str = PATH) -> str:
    """The version that the results name, such as `node v18.20.4`."""
    language = LANGUAGES[name]
    argv = language.version or (python, "--version")
    command = shutil.which(argv[0], path=path) or argv[0]
    # Scripts such as kotlinc look for java on PATH.
    variables = {"PATH": path, "LANG": "C.UTF-8"}
    try:
        shown = subprocess.run(
            [command, *argv[1:]],
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            stdin=subprocess.DEVNULL,
            env=variables,
        )
    except subprocess.TimeoutExpired:  # verdicts are there by now: a slow compiler must not lose them
        return f"{argv[0]}, which did not name its version within {VERSION_SECONDS} s"
    lines = (shown.stdout.strip() or shown.stderr.strip()).splitlines()
    # kotlinc lets Java's warnings stand before its version.
    messages = [line.removeprefix("info: ") for line in lines if "warning" not in line.lower()]
    text = messages[0] if messages else "unknown"
    named = text.lower().startswith(argv[0].split("/")[-1][:2])
    version = text if named else f"{argv[0]} {text}"
    return f"{version}, {language.stand_in}" if language.stand_in else version
