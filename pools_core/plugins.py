"""Who listens to the life-cycle hooks.

One pluggy manager holds the plugins: those of the entry-point group ``pools.plugins``, those that a
program registers itself, and the backend packages that were loaded (they may listen too).  Three
habits of pluggy are mended here: a registration that fails is undone, a hook that is misspelt is
reported at once, and a listener that raises is logged without keeping the event from the others.

Those of the entry-point group can be switched off by name, and are then not even imported:

    $POOLS_PLUGINS_OFF, [pool] plugins_off of the default config    for the whole process
    [pool] plugins_off of the config that a pool is made with       for that pool
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pools_core.errors import ConfigError
from pools_core.metadata import distribution_name, entry_points, normalized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from importlib.metadata import EntryPoint

    import pluggy

    from pools_core.hookspecs import LifeCycle

__all__ = ["PluginInfo", "Plugins", "hooks", "load_plugins", "register", "unregister"]

GROUP: Final = "pools.plugins"
VARIABLE: Final = "POOLS_PLUGINS_OFF"
SETTING: Final = "plugins_off"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What is known of an installed plugin.

    Attributes:
        name: what it is called.
        distribution: the distribution that offers it.
        version: that distribution's version.
        state: ``"on"``, ``"off"`` (switched off by name) or ``"broken"``.
        why: what switched it off, or how it is broken.
    """

    name: str
    distribution: str
    version: str
    state: Literal["on", "off", "broken"]
    why: str = ""


class Plugins:
    """The plugins of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._manager: pluggy.PluginManager | None = None
        self._entries: tuple[EntryPoint, ...] | None = None
        self._off: Mapping[str, str] | None = None
        self._tried: dict[str, str] = {}
        """Those that were to be loaded, by full name: how they are broken, or nothing."""
        self._unknown: dict[str, str] = {}
        """Names that were to be switched off and that no plugin has, with what is said of it, once."""
        self._relays: dict[frozenset[str], LifeCycle | None] = {}
        """By the full names of the plugins that are left out."""

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
            self._relays.clear()

    def unregister(self, plugin: object) -> None:
        """Remove a plugin; one that was never added is no error."""
        with self._lock:
            if self._manager is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
                self._relays.clear()

    def load(self, off: Collection[str] = ()) -> None:
        """Add the plugins that installed distributions offer, each once; log those that are broken.

        Args:
            off: names of those that need not be loaded now.
        """
        with self._lock:
            left_out = self._left_out(off)
            for entry in self._offers():
                name = _full_name(entry)
                if name not in self._tried and name not in left_out:
                    self._tried[name] = ""  # first: a plugin may make a pool while it is imported
                    self._tried[name] = self._load_one(entry, name)

    def _load_one(self, entry: EntryPoint, name: str) -> str:
        """Load a plugin; return why it is of no use, if so."""
        try:
            plugin = entry.load()
            self.register(plugin, name)
        except (Exception, SystemExit) as error:  # the log gets it; a guest must not stop the host
            why = f"it does not load: {type(error).__name__}: {error}"
            logger.warning("plugin %s is left out: %s", name, why)
            return why
        if self._manager is not None and not self._manager.get_hookcallers(plugin):
            why = "it has no hook; mark its functions with hookimpl of pools_core.hookspecs"
            logger.warning("plugin %s: %s", name, why)
            return why
        return ""

    def listeners(self, hook: str, left_out: Collection[str] = ()) -> list[tuple[str, Callable[..., Any]]]:
        """Return the name of each plugin that has the hook, and how to call it there alone."""
        if self._manager is None:
            return []
        # pluggy calls the one registered last first, and so do we; but not by its caller of a subset, which
        # follows what is registered later.
        return [
            (impl.plugin_name, _accepting(impl.function, impl.argnames))
            for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls())
            if impl.plugin_name not in left_out
        ]

    def hooks(self, off: Collection[str] = ()) -> LifeCycle | None:
        """Return what announces events to all listeners; None when there are none.

        Args:
            off: names of plugins that are not to listen, besides those that are off for the process.
        """
        with self._lock:
            self.load(off)
            left_out = frozenset(self._left_out(off))
            if left_out not in self._relays:
                self._relays[left_out] = None if self._manager is None else _relay(self, left_out)
            return self._relays[left_out]

    def describe(self, off: Collection[str] = ()) -> list[PluginInfo]:
        """Return what is known of each installed plugin; those that are not off are loaded.

        Args:
            off: names of plugins to take as switched off, besides those that are off for the process.
        """
        with self._lock:
            self.load(off)
            left_out = self._left_out(off)
            return [
                _info(entry, left_out.get(_full_name(entry)), self._tried.get(_full_name(entry), ""))
                for entry in self._offers()
            ]

    def unknown(self) -> Mapping[str, str]:
        """Return the names that were to be switched off and that no plugin has, and a sentence on each."""
        return dict(self._unknown)

    # --- which are off -------------------------------------------------------------------------------

    def _offers(self) -> tuple[EntryPoint, ...]:
        """Return the plugins that were installed when this was asked first."""
        if self._entries is None:
            self._entries = entry_points(GROUP)
        return self._entries

    def _left_out(self, off: Collection[str]) -> dict[str, str]:
        """Return the full names of the plugins that are off, and what says so."""
        said = {**dict.fromkeys(off, SETTING), **self._off_for_all()}
        found = {}
        for name, whence in said.items():
            meant = [_full_name(entry) for entry in self._offers() if _is_named(entry, name)]
            found.update(dict.fromkeys(meant, whence))
            if not meant and name not in self._unknown:
                what = f"{whence} names {name!r}, and no such plugin is installed; {self._known()}"
                self._unknown[name] = what
                logger.warning(
                    "%s", what
                )  # no error: machines that share a config may have different plugins
        return found

    def _off_for_all(self) -> Mapping[str, str]:
        """Return the names that are off for the whole process, and what says so; asked once."""
        if self._off is None:
            said = os.environ.get(VARIABLE, "").split(",")
            self._off = dict.fromkeys((name.strip() for name in said if name.strip()), VARIABLE)
            if self._offers():  # else there is nothing to switch off, and no file need be read for it
                self._off = {**dict.fromkeys(_off_by_default(), SETTING), **self._off}
        return self._off

    def _known(self) -> str:
        names = ", ".join(entry.name for entry in self._offers())
        return f"there are: {names}" if names else "there is none at all"


def _off_by_default() -> Sequence[str]:
    from pools_core.config_files import load

    try:
        return load().plugins_off()
    except ConfigError as error:  # whoever needs the config is told; listeners are no reason to fail
        logger.warning("no plugin is switched off by the config, which cannot be read: %s", error)
        return ()


def _full_name(entry: EntryPoint) -> str:
    return f"{distribution_name(entry)}:{entry.name}"


def _is_named(entry: EntryPoint, name: str) -> bool:
    """Whether a name, or ``distribution:name``, is that of a plugin."""
    distribution, _, plain = name.rpartition(":")
    whose = normalized(distribution_name(entry))
    return entry.name == plain and (not distribution or normalized(distribution) == whose)


def _info(entry: EntryPoint, off: str | None, broken: str) -> PluginInfo:
    version = entry.dist.version if entry.dist is not None else ""
    state: Literal["on", "off", "broken"] = "off" if off else "broken" if broken else "on"
    return PluginInfo(entry.name, distribution_name(entry), version, state, off or broken)


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


def _relay(plugins: Plugins, left_out: Collection[str]) -> LifeCycle | None:
    from pools_core.hookspecs import LifeCycle

    relay, anyone = LifeCycle(), False
    for hook, spec in vars(LifeCycle).items():
        if hook.startswith("pools_"):
            listeners = plugins.listeners(hook, left_out)
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


def hooks(off: Collection[str] = ()) -> LifeCycle | None:
    """Return an object with the methods of ``LifeCycle``, or None when no plugin listens.

    The first call loads the plugins of the entry-point group ``pools.plugins``.  A pool asks once,
    when it is made, and pays nothing afterwards if the answer is None.

    Args:
        off: names of plugins that are not to listen, besides those that are off for the process.
    """
    return plugins.hooks(off)


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
