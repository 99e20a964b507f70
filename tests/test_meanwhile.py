"""Importing in the background."""

import pytest

from llmdbg.meanwhile import import_meanwhile


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    return make


def test_who_needs_a_module_waits_for_it(module):
    module("meanwhile_slow", "import time\ntime.sleep(0.2)\nready = True\n")
    import_meanwhile("meanwhile_slow")
    import meanwhile_slow

    assert meanwhile_slow.ready


def test_who_needs_a_module_that_fails_is_told(module):
    module("meanwhile_broken", "1 / 0\n")
    import_meanwhile("meanwhile_broken")
    with pytest.raises(ZeroDivisionError):
        import meanwhile_broken  # noqa: F401
