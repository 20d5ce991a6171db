"""Send the events of a stream in batches when they come faster than anyone can see."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BATCH_SECONDS = 0.02


class BatchedStream:
    """ASGI middleware that joins chunks of a streamed body which follow each other within a moment.

    Every chunk costs the replica and Ray Serve's proxy the same whatever its size. An event that comes later than
    ``seconds`` after the one before it is sent at once, the first one always; the others wait for the rest of that
    time. The bytes that a client reads stay the same.
    """

    def __init__(self, app: ASGIApp, seconds: float = BATCH_SECONDS) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        batch = _Batch(send, self._seconds)
        try:
            await self._app(scope, receive, batch.send)
        finally:
            await batch.close()


class _Batch:
    """The chunks of one response that wait to be sent."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._chunks: list[bytes] = []
        self._sent = float("-inf")
        self._timer: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._chunks.append(message.get("body", b""))
        wait = self._sent + self._seconds - asyncio.get_running_loop().time()
        if not message.get("more_body", False):
            await self.close()
            await self._flush(more=False)
        elif wait <= 0 and self._timer is None:
            await self._flush(more=True)
        elif self._timer is None:
            self._timer = asyncio.create_task(self._flush_later(wait))

    async def close(self) -> None:
        """Stop the timer; what waits is sent by whoever calls this, or dropped with the connection."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            with suppress(asyncio.CancelledError):
                await timer

    async def _flush_later(self, wait: float) -> None:
        await asyncio.sleep(wait)
        self._timer = None
        await self._flush(more=True)

    async def _flush(self, *, more: bool) -> None:
        body, self._chunks = b"".join(self._chunks), []
        self._sent = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
