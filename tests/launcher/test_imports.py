"""Imports without the garbage collector, which goes on afterwards."""

from __future__ import annotations

import gc

import pytest
from stilts_launcher.imports import heavy_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_inside_and_is_as_it_was_afterwards(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(ImportError), heavy_imports():
            assert not gc.isenabled()
            raise ImportError("a library that is not here")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


def test_what_was_imported_is_not_looked_through_again() -> None:
    class Library:
        """What an import makes: a class, which is a cycle of references."""

    with heavy_imports():
        pass
    assert not any(value is Library for value in gc.get_objects())
    gc.unfreeze()
    assert any(value is Library for value in gc.get_objects())
    gc.freeze()  # the test modules' own imports, again
