"""The recipes that come with the package. Light, since `stilts --help` lists them."""

from __future__ import annotations

from pathlib import Path

from stilts_ds.errors import UserError, did_you_mean

RECIPES = Path(__file__).parent / "recipes"


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError(f"recipe {path} does not exist; shipped recipes: {', '.join(shipped_recipes())}")
        return path
    if name_or_path in shipped_recipes():
        return RECIPES / f"{name_or_path}.yaml"
    raise UserError(
        f"no recipe is called {name_or_path!r}{did_you_mean(name_or_path, shipped_recipes())} (or give a .yaml file)"
    )
