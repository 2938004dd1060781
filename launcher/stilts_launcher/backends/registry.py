"""Which launchers there are, and the cluster profile that names one of them."""

from __future__ import annotations

from pathlib import Path

from stilts_ds.config import parse_section
from stilts_ds.errors import UserError
from stilts_ds.run_dir import RunDir
from stilts_ds.yaml_files import read_yaml
from stilts_launcher.backends.base import Launcher
from stilts_launcher.backends.slurm import Slurm
from stilts_launcher.cluster import Profile, Resources

LAUNCHERS: dict[str, Launcher] = {
    "slurm": Slurm(),
}
# Keys of a profile that launchers need not read, because what runs inside a job does, or submission itself.
COMMON = frozenset({"backend", "jobs", "setup", "python", "stop_seconds", "max_requeues", "max_restarts", "worlds"})


def launcher_of(profile: Profile) -> Launcher:
    """The launcher that a profile names; raises UserError where there is none of that name."""
    if profile.backend not in LAUNCHERS:
        raise UserError(f"backend: {profile.backend!r} is no launcher; known: {', '.join(sorted(LAUNCHERS))}")
    return LAUNCHERS[profile.backend]


def profile_of(run: RunDir) -> Profile:
    """The profile with which a run was submitted; the default one where its jobs were handed in by hand."""
    return load_profile(run.profile) if run.profile.exists() else Profile()


def load_profile(path: Path) -> Profile:
    """Read a profile; raises UserError naming the file and key, also for keys that its launcher does not read."""
    if not path.exists():
        raise UserError(f"cluster profile {path} does not exist; `stilts init` writes one")
    document = read_yaml(path)
    # An empty file or a single word is YAML, too.
    if not isinstance(document.value, dict):
        raise UserError(f"{path} must hold keys and values, such as `partition: gpu`")
    try:
        profile = parse_section(Profile, document.value, str(path), document.texts)
        _check_settings(profile)
    except UserError as error:  # of one kind of job, or of the launcher: they know the key, not the file
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return profile


def _check_settings(profile: Profile) -> None:
    """Refuse keys that the launcher would pass over in silence."""
    known = launcher_of(profile).settings | COMMON
    # A value equal to the default asks for nothing; a submitted run's copy of its profile holds every key.
    given = [
        name
        for name in Profile.model_fields
        if getattr(profile, name) != Profile.model_fields[name].get_default(call_default_factory=True)
    ]
    given += [name for resources in profile.jobs.values() for name in resources if name in Resources.model_fields]
    for name in given:
        if name not in known:
            reads = ", ".join(sorted(known))
            raise UserError(f"{name}: the launcher {profile.backend!r} does not read this key; it reads {reads}")
    launcher_of(profile).check(profile)
