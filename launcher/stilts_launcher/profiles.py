"""Where cluster profiles are found by name: in the user's folder, then among those that come with the program."""

from __future__ import annotations

import os
from pathlib import Path

from stilts_ds.errors import UserError, did_you_mean
from stilts_launcher.backends.base import script

VARIABLE = "STILTS_CLUSTER"  # the profile of whoever submits to one cluster only


def shipped_profiles() -> Path:
    """The profiles of the installation, or of the checkout."""
    return script("run").parent / "profiles"


def user_profiles() -> Path:
    """The user's folder of profiles, as the XDG base directory specification places configuration."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "stilts" / "clusters"


def known_profiles() -> dict[str, Path]:
    """Profiles by name; the user's own hides a shipped one of its name."""
    folders = (shipped_profiles(), user_profiles())
    return {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}


def find_profile(given: str | None) -> Path:
    """The file that `--cluster` means: a path, or a name. Raises UserError with the nearest names."""
    wanted = given or os.environ.get(VARIABLE)
    if not wanted:
        raise UserError(f"name a cluster profile with --cluster, or set {VARIABLE}; {_names()}")
    # What holds a separator or an ending is meant as a path, also where there is no such file.
    if os.sep in wanted or wanted.endswith((".yaml", ".yml")):
        return Path(wanted)
    known = known_profiles()
    if wanted not in known:
        raise UserError(f"no cluster profile is called {wanted!r}{did_you_mean(wanted, known)}; {_names()}")
    return known[wanted]


def _names() -> str:
    return f"known: {', '.join(known_profiles())} (your own go into {user_profiles()})"
