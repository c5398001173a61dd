"""The client for ``asyncio``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tfstyle.serving.client import Client

#: Calls of one client at the same time.
MOST_CALLS = 32

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    method: Callable[Concatenate[Client, P], R],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    """A method of :class:`Client` as a coroutine."""

    @wraps(method)
    async def call(self: AsyncClient, *arguments: P.args, **options: P.kwargs) -> R:
        self._client._check_open()
        work = partial(method, self._client, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    return call


class AsyncClient:
    """:class:`Client` with coroutines: the same arguments, methods and results, to be awaited.

    Calls run in threads of this client's own, at most 32 at the same time; deadlines, retries and
    parts of large batches are those of :class:`Client`. A coroutine that is cancelled is left at
    once, its request when the server has answered.

    Example:
        >>> async with AsyncClient("127.0.0.1:8500") as client:    # doctest: +SKIP
        ...     results = await asyncio.gather(*(client.stylize(c, code) for c in contents))
    """

    def __init__(self, *arguments: Any, **options: Any):
        self._client = Client(*arguments, **options)
        self._threads = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="tfstyle-client")

    stylize = _awaited(Client.stylize)
    encode_style = _awaited(Client.encode_style)
    predict = _awaited(Client.predict)
    status = _awaited(Client.status)
    metadata = _awaited(Client.metadata)
    wait_until_ready = _awaited(Client.wait_until_ready)

    async def close(self) -> None:
        """Close the connection. Calls in progress fail."""
        self._client.close()  # which ends the calls in progress, and so the threads
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
