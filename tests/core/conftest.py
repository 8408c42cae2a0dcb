"""Throw-away distributions, and an environment in which nobody's own config is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pools_core import MakePool
from pools_core.plugins import plugins

BACKEND = """
def MakePool(config=None, **options):
    return (__name__, config, options)

def RunMain(argv=None):
    print(__name__, argv)
    return 7
"""


@pytest.fixture(autouse=True)
def no_configuration(tmp_path, monkeypatch):
    """What the user of this machine has configured must not change what tests see."""
    for name in ("POOLS_BACKEND", "POOLS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user-config"))


@pytest.fixture(scope="module")
def lifeline():
    """What the first pool of processes makes lives as long as the program, so no test leaves it behind."""
    with MakePool("multicore", n_jobs=1) as pool:
        pool.apply(abs, (1,))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a small distribution on ``sys.path``, as an installer would."""
    before = set(sys.modules)
    listened = dict(plugins._manager.list_name_plugin()) if plugins._manager else {}

    def _install(
        name: str,
        entries: dict[str, str],
        modules: dict[str, str],
        group: str = "pools.backends",
        requires: tuple[str, ...] = (),
    ) -> Path:
        folder = tmp_path / "site" / name
        info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{needs}")
        lines = "".join(f"{key} = {value}\n" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield _install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    if plugins._manager:
        for name, plugin in plugins._manager.list_name_plugin():
            if name not in listened and plugin is not None:
                plugins.unregister(plugin)
