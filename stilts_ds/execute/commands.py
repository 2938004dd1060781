"""How a program and its tests become files and commands: the two ways to a verdict of every language but Python.

`together` functions put program and tests into one process, and the tests' last act prints a number that only this
run knows. `sides` puts them into two processes between which only plain values cross.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stilts_ds.execute.command_sides import WORK

Given = dict[str, Any]  # files, steps, env: what `command_sides` reads
Together = Callable[[str, str, str], Given]  # (program, tests, nonce)

DRIVERS = Path(__file__).parent / "drivers"
PATH = "/usr/local/bin:/usr/bin:/bin"


def environment(**more: str) -> dict[str, str]:
    fixed = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0"}
    return {**fixed, "GOMAXPROCS": "1", **more}


def step(*argv: str) -> dict[str, Any]:
    """A command. The pool adds its limits: the compiler's, or those of the sample for the last step."""
    return {"argv": list(argv)}


def given(files: dict[str, str], *steps: dict[str, Any], **variables: str) -> Given:
    """Files, the steps that compile and run them, and variables beside the usual ones."""
    return {"files": files, "steps": list(steps), "env": environment(**variables)}


# --- scripts ---------------------------------------------------------------------------------------------------------

NODE = ("node", "--max-old-space-size=512", "--stack-size=4000")
ESBUILD = ("esbuild", "NAME.ts", "--outfile=NAME.js", "--format=cjs", "--log-level=error")
PHP_COMMAND = ("php", "-n", "-d", "memory_limit=1G")


def script(name: str, ending: str, command: tuple[str, ...]) -> Together:
    """Program, tests and the statement that prints the number, in one file that an interpreter runs."""

    def together(program: str, tests: str, nonce: str) -> Given:
        text = f"{program}\n{tests}\n{ending.replace('NONCE', nonce)}\n"
        return given({name: text}, step(*command, name))

    return together


def compile_typescript(name: str) -> dict[str, Any]:
    return step(*(word.replace("NAME", name) for word in ESBUILD))


def typescript(program: str, tests: str, nonce: str) -> Given:
    text = f'{program}\n{tests}\nconsole.log("\\n{nonce}")\n'
    return given({"main.ts": text}, compile_typescript("main"), step(*NODE, "main.js"))


# --- languages of the Java virtual machine: a compile server turns `files` into classes ------------------------------

JAVA = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Xss8m")


def java(program: str, tests: str, nonce: str) -> Given:
    """A class of its own calls the tests' main, so that the number is printed after it has returned."""
    last = (
        "public class StiltsRun { public static void main(String[] a) throws Exception "
        f'{{ Main.main(a); System.out.println("\\n{nonce}"); System.out.flush(); }} }}'
    )
    return given({"Main.java": f"{program}\n{tests}", "StiltsRun.java": last}, step(*JAVA, "StiltsRun"))


def kotlin(program: str, tests: str, nonce: str) -> Given:
    """The tests' main gets another name, and the main of a second file calls it."""
    renamed = re.sub(r"^fun main\(\)", "fun stiltsTests()", tests, flags=re.MULTILINE)
    last = f'fun main() {{\n    stiltsTests()\n    println("\\n{nonce}")\n}}\n'
    return given({"Main.kt": f"{program}\n{renamed}", "Last.kt": last}, step(*JAVA, "LastKt"))


def scala(program: str, tests: str, nonce: str) -> Given:
    """The benchmarks' tests stand in the body of an object Main that extends App; another object calls it."""
    last = "object StiltsRun {\n  def main(words: Array[String]): Unit = {\n    Main.main(words)\n"
    last += f'    println("\\n{nonce}")\n  }}\n}}\n'
    return given({"Main.scala": f"{program}\n{tests}", "Last.scala": last}, step(*JAVA, "StiltsRun"))


# --- compiled to machine code, or by a compiler that is quick to start -----------------------------------------------

CPP_OPTIONS = ("-std=c++17", "-O1")


def cpp(program: str, tests: str, nonce: str) -> Given:
    """The linker puts a function before the tests' main, which thereby stays a main, with its implied `return 0`.

    What stands first is the header that was compiled once for all workers.
    """
    last = 'extern "C" int __real_main();\nextern "C" int __wrap_main() {\n    int status = __real_main();\n'
    last += f'    if (status == 0) std::puts("\\n{nonce}");\n    return status;\n}}\n'
    text = f"#include <bits/stdc++.h>\n{program}\n{tests}\n{last}"
    compiler = step("g++", *CPP_OPTIONS, "-I/cache/include", "-Wl,--wrap=main", "-o", "program", "main.cpp")
    return given({"main.cpp": text}, compiler, step("./program"))


def cpp_warm() -> Given:
    """A precompiled header is found before the header itself where its folder stands first on the path.

    It counts for the first `#include` only. Programs name the header once more, and find the header here, which they
    have by then; it leads on to the compiler's own.
    """
    folder = "/cache/include/bits"
    header = "#ifndef STILTS_ALL\n#define STILTS_ALL\n#include_next <bits/stdc++.h>\n#endif\n"
    compile_it = f"g++ {' '.join(CPP_OPTIONS)} -I/cache/include -x c++-header -o {folder}/stdc++.h.gch all.h"
    make = f"mkdir -p {folder} && cp header.h {folder}/stdc++.h && {compile_it}"
    return given({"all.h": "#include <bits/stdc++.h>\n", "header.h": header}, step("sh", "-c", make))


def csharp(program: str, tests: str, nonce: str) -> Given:
    """MBXP's tests compare by a library of .NET, in whose place stands a class of the same name."""
    last = "public static class StiltsRun {\n    public static void Main(string[] words) {\n"
    last += f'        Solution.Program.Main(words);\n        System.Console.WriteLine("\\n{nonce}");\n    }}\n}}\n'
    compare = DRIVERS.joinpath("CompareLogic.cs").read_text(encoding="utf-8")
    files = {"main.cs": f"{program}{tests}", "last.cs": last, "compare.cs": compare}
    compiler = step(
        "mcs", "-nologo", "-warn:0", "-r:System.Numerics.dll", "-main:StiltsRun", "-out:program.exe", *files
    )
    return given(files, compiler, step("mono", "program.exe"))


# A function marked as a test, with the comments that may stand in between.
RUST_TEST = re.compile(r"#\[test\]((?:\s|//[^\n]*\n|/\*.*?\*/)*)fn (\w+)", re.DOTALL)


def rust(program: str, tests: str, nonce: str) -> Given:
    """HumanEval-X's tests are functions marked `#[test]`, which ends a program by itself; here a main calls them."""
    plain = RUST_TEST.sub(r"\1pub fn \2", tests.replace("#[cfg(test)]", ""))
    calls = "".join(f"    tests::{name}();\n" for _, name in RUST_TEST.findall(tests))
    text = f'{program}\n{plain}\nfn main() {{\n{calls}    println!("\\n{nonce}");\n}}\n'
    compiler = step("rustc", "--edition=2021", "-O", "--cap-lints=allow", "-o", "program", "main.rs")
    return given({"main.rs": text}, compiler, step("./program"))


def swift(program: str, tests: str, nonce: str) -> Given:
    """The tests are calls of `assert`, which optimisation takes out."""
    text = f'{program}\n{tests}\nprint("\\n{nonce}")\n'
    compiler = step("swiftc", "-Onone", "-module-cache-path", f"{WORK}/modules", "-o", "program", "main.swift")
    return given({"main.swift": text}, compiler, step("./program"))


# --- program and tests apart -----------------------------------------------------------------------------------------


def sides(
    suffix: str, interpreter: tuple[str, ...], program: str, tests: str, entry: str, typed: bool = False
) -> tuple[Given, Given]:
    """What the program's process and the tests' process are given. `typed` files are TypeScript, compiled first."""
    driver = f"driver.{suffix}"
    driver_text = DRIVERS.joinpath(driver).read_text(encoding="utf-8")
    made = []
    for side, text in (("program", program), ("tests", tests)):
        run = step(*interpreter, driver, side, entry)
        if typed:
            made.append(given({driver: driver_text, f"{side}.ts": text}, compile_typescript(side), run))
        else:
            made.append(given({driver: driver_text, f"{side}.{suffix}": text}, run))
    return made[0], made[1]
