"""Scripts of earlier versions import modules by names that they no longer have."""

import importlib
import sys

import pytest

from vintix_fast.service.old_names import MODULES, NAMES


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_an_old_module_is_the_new_one(monkeypatch, old, new):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new)
    assert found.__spec__.name == found.__name__ == new


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_an_old_name_is_found(module, name):
    with pytest.warns(DeprecationWarning, match=f"{name} is now in {NAMES[module][name]}"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(NAMES[module][name]), name)


def test_what_never_was_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        importlib.import_module("vintix_fast.config").magic  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("vintix_fast.magic")


def test_adapt_stays_the_function():
    import vintix_fast

    with pytest.warns(DeprecationWarning):
        sys.modules.pop("vintix_fast.adapt", None)
        importlib.import_module("vintix_fast.adapt")
    assert callable(vintix_fast.adapt)
