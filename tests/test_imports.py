"""Modules that are acted on when they are imported; large ones are imported without the garbage collector."""

import gc
import importlib
import sys
from pathlib import Path

import pytest
from conftest import Project

from repro.worker import imports


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_after_an_import_what_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool, fails: bool
) -> None:
    """While a large module is imported nothing is collected; afterwards as before, also where the import fails."""
    (tmp_path / "large_one.py").write_text(f"import gc\nduring = gc.isenabled()\nif {fails}: raise OSError(during)\n")
    (tmp_path / "small_one.py").write_text("import gc\nduring = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_LARGE", ("large_one",))
    monkeypatch.setattr(sys, "meta_path", [imports._FINDER, *sys.meta_path])
    if not enabled:
        gc.disable()
    try:
        if fails:
            with pytest.raises(OSError, match="False"):
                importlib.import_module("large_one")
        else:
            assert importlib.import_module("large_one").during is False
        assert gc.isenabled() == importlib.import_module("small_one").during == enabled
    finally:
        gc.enable()
        for name in ("large_one", "small_one"):
            sys.modules.pop(name, None)


def test_torch_is_imported_without_the_collector(project: Project) -> None:
    """In a run as well: there are few collections until torch is there, and it collects from then on."""
    project.write(
        "train.py",
        "import gc, torch, torch._dynamo\n"
        "print('count=%d' % gc.get_stats()[0]['collections'], 'on=%d' % gc.isenabled())\n",
    )
    found = project.run("--metric", r"count=(\d+)", "--metric", r"on=(\d)", "--", "python", "train.py")["metrics"]
    assert found["count"] < 100  # 640 without
    assert found["on"] == 1
