"""Who listens to the life-cycle hooks.

One pluggy manager holds the plugins: those of the entry-point group ``pools.plugins``, those that a
program registers itself, and the backend packages that were loaded (they may listen too).  Three
habits of pluggy are mended here: a registration that fails is undone, a hook that is misspelt is
reported at once, and a listener that raises is logged without keeping the event from the others.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from pools_core.metadata import distribution_name, entry_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.metadata import EntryPoint

    import pluggy

    from pools_core.hookspecs import LifeCycle

__all__ = ["Plugins", "hooks", "load_plugins", "register", "unregister"]

GROUP: Final = "pools.plugins"

logger = logging.getLogger(__name__)


class Plugins:
    """The plugins of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._manager: pluggy.PluginManager | None = None
        self._loaded = False
        self._relay: LifeCycle | None = None
        self._stale = True

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin; a second time does nothing.

        Args:
            plugin: a module or an object with hook implementations, possibly none.
            name: what it is called in messages.

        Raises:
            TypeError: it has a hook that does not exist, or with arguments that do not.
        """
        import pluggy

        with self._lock:
            manager = self._manager = self._manager or _make_manager()
            if manager.is_registered(plugin):
                return
            try:
                manager.register(plugin, name)
                manager.check_pending()  # else a misspelt hook would never be called, in silence
            except (pluggy.PluginValidationError, ValueError) as error:
                if manager.get_plugin(name) is plugin:
                    manager.unregister(plugin, name)  # pluggy keeps the name of what it refuses
                raise TypeError(f"plugin {name!r}: {' '.join(str(error).split())}") from error
            self._stale = True

    def unregister(self, plugin: object) -> None:
        """Remove a plugin; one that was never added is no error."""
        with self._lock:
            if self._manager is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
                self._stale = True

    def load(self) -> None:
        """Add the plugins that installed distributions offer, once; log those that are broken."""
        with self._lock:
            if self._loaded:
                return
            self._loaded = True  # first: a plugin may make a pool while it is imported
            for entry in entry_points(GROUP):
                self._load_one(entry)

    def _load_one(self, entry: EntryPoint) -> None:
        name = f"{distribution_name(entry)}:{entry.name}"
        try:
            plugin = entry.load()
            self.register(plugin, name)
        except (Exception, SystemExit) as error:  # the log gets it; a guest must not stop the host
            logger.warning(
                "plugin %s is left out: it does not load: %s: %s", name, type(error).__name__, error
            )
            return
        if self._manager is not None and not self._manager.get_hookcallers(plugin):
            logger.warning(
                "plugin %s has no hook; mark its functions with hookimpl of pools_core.hookspecs", name
            )

    def listeners(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Return the name of each plugin that has the hook, and how to call it there alone."""
        if self._manager is None:
            return []
        # pluggy calls the one registered last first, and so do we; but not by its caller of a subset, which
        # follows what is registered later.
        return [
            (impl.plugin_name, _accepting(impl.function, impl.argnames))
            for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls())
        ]

    def hooks(self) -> LifeCycle | None:
        """Return what announces events to all listeners; None when there are none."""
        with self._lock:
            self.load()
            if self._stale:
                self._stale = False
                self._relay = None if self._manager is None else _relay(self)
            return self._relay


def _accepting(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a function that passes on those of its keyword arguments that a hook wants."""
    return lambda **told: function(*(told[name] for name in names))


def _make_manager() -> pluggy.PluginManager:
    import pluggy

    from pools_core.hookspecs import PROJECT, LifeCycle

    class Manager(pluggy.PluginManager):
        def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
            # An attribute that a package provides lazily is no hook; touching it would load it.
            if name not in getattr(plugin, "__dict__", {}) and not hasattr(type(plugin), name):
                return None
            return super().parse_hookimpl_opts(plugin, name)

    manager = Manager(PROJECT)
    manager.add_hookspecs(LifeCycle)
    return manager


def _relay(plugins: Plugins) -> LifeCycle | None:
    from pools_core.hookspecs import LifeCycle

    relay, anyone = LifeCycle(), False
    for hook, spec in vars(LifeCycle).items():
        if hook.startswith("pools_"):
            listeners = plugins.listeners(hook)
            anyone = anyone or bool(listeners)
            names = spec.__code__.co_varnames[1 : spec.__code__.co_argcount]
            setattr(relay, hook, _Announcement(hook, names, listeners))
    return relay if anyone else None


class _Announcement:
    """Tells one event to each listener; none can keep it from the next."""

    def __init__(
        self, hook: str, names: Sequence[str], listeners: Sequence[tuple[str, Callable[..., Any]]]
    ) -> None:
        self._hook = hook
        self._names = names
        self._listeners = listeners

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        told: Mapping[str, Any] = {**dict(zip(self._names, args, strict=False)), **kwargs}
        for plugin, call in self._listeners:
            try:
                call(**told)
            except (Exception, SystemExit):
                logger.exception("plugin %s failed in its hook %s; the pool goes on", plugin, self._hook)


plugins: Final = Plugins()
"""Those of this process; there is one set, as there is one ``sys.modules``."""


def hooks() -> LifeCycle | None:
    """Return an object with the methods of ``LifeCycle``, or None when no plugin listens.

    The first call loads the plugins of the entry-point group ``pools.plugins``.  A pool asks once,
    when it is made, and pays nothing afterwards if the answer is None.
    """
    return plugins.hooks()


def load_plugins() -> None:
    """Load the plugins of the entry-point group ``pools.plugins``, once; broken ones are logged."""
    plugins.load()


def register(plugin: object, name: str | None = None) -> None:
    """Let a plugin listen to the pools that are made from now on.

    Args:
        plugin: a module or object whose functions are marked with ``pools_core.hookspecs.hookimpl``.
        name: what it is called in messages; default its own name, or else its class's.

    Raises:
        TypeError: one of its hooks does not exist, or takes an argument that does not.
    """
    own = getattr(plugin, "__name__", None) or f"{type(plugin).__name__} {id(plugin):x}"
    plugins.register(plugin, name or str(own))


def unregister(plugin: object) -> None:
    """Let a plugin no longer listen to pools that are made from now on; never an error."""
    plugins.unregister(plugin)
