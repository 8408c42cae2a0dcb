"""A web service that leaves its work to a pool, and goes on answering meanwhile.

    python examples/web_offload.py --backend multicore
    curl --data-binary @examples/web_offload.py http://127.0.0.1:8080/tokens

A handler that computes holds up all other requests; one that awaits `submit` holds up none.
What the task raises is raised in the handler, as if it had run there.
Needs `pip install aiohttp`.
"""

import argparse
import io
import socket
import tokenize
from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web

from pools_core import MakePool
from pools_core.aio import AsyncPool

POOL = web.AppKey("pool", AsyncPool)


def count_tokens(source: bytes) -> Counter[str]:
    """Return how often each token type occurs in a Python program."""
    return Counter(tokenize.tok_name[token.type] for token in tokenize.tokenize(io.BytesIO(source).readline))


async def tokens(request: web.Request) -> web.Response:
    """Answer a program with its counts."""
    source = await request.read()
    try:
        counts = await request.app[POOL].submit(count_tokens, source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise web.HTTPBadRequest(text=f"does not tokenize: {error}\n") from error
    return web.json_response(counts)


def main() -> None:
    """Read the options, serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve the numbers of tokens of Python programs.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free")
    args = parser.parse_args()

    async def with_pool(app: web.Application) -> AsyncIterator[None]:
        async with AsyncPool(MakePool(args.backend, config=args.config)) as app[POOL]:
            # The first task starts the workers: a process that is forked while clients are connected would
            # keep their connections open.
            await app[POOL].submit(count_tokens, b"")
            yield

    app = web.Application()
    app.cleanup_ctx.append(with_pool)
    app.router.add_post("/tokens", tokens)
    web.run_app(app, sock=socket.create_server(("127.0.0.1", args.port)))


if __name__ == "__main__":
    main()
