"""What ``pools gearman worker`` does: be a node until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Final

from pools_core.config import ConfigSource
from pools_core.protocol import Engine
from pools_core.registry import MakePool
from pools_gearman.engine import make_signer
from pools_gearman.link import tls_context
from pools_gearman.node import Node
from pools_gearman.settings import GearmanSettings, NodeSettings
from pools_gearman.shared_loop import SharedLoop

__all__ = ["run_node"]

log: Final = logging.getLogger("pools_gearman")


def run_node(
    settings: GearmanSettings,
    own: NodeSettings,
    config: ConfigSource,
    ready: Callable[[Node], None],
) -> int:
    """Be a node until a signal or a request says to stop; return the exit status.

    SIGTERM and SIGINT let what runs finish for ``stop_timeout`` seconds; a second one ends it at once.

    Args:
        settings: which servers, how patient.
        own: which local pool, and its size.
        config: where that pool's own section stands.
        ready: called when the node is known to a server.

    Raises:
        SecurityError, ConfigError: what was configured must not or cannot be used.
    """
    signer, tls = make_signer(settings), tls_context(settings)

    def make_engine() -> Engine:
        pool = MakePool(own.pool, config, n_jobs=own.n_jobs)
        engine = pool.detach_engine()
        engine.prepare()
        return engine

    engine = make_engine()  # before there is any thread, so that the pool may fork

    async def serve() -> None:
        node = Node(settings, own, signer, tls, make_engine, ready)
        loop = asyncio.get_running_loop()
        signals = 0

        def told() -> None:
            nonlocal signals
            signals += 1
            node.stop(own.stop_timeout if signals == 1 else 0)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        await node.run(engine)

    with asyncio.Runner(loop_factory=SharedLoop) as runner:
        runner.run(serve())
    return 0
