"""Let a cancelled request reach vLLM as what it understands: a client that has gone away."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

FINISH_SECONDS = 10.0


class DisconnectOnCancel:
    """ASGI middleware that turns the cancellation of a request into ``http.disconnect``.

    When a client goes away, Ray Serve cancels the task that runs the application. vLLM's routes wait for their work in
    a way that does not pass a cancellation on (``vllm.entrypoints.serve.utils.api_utils.with_cancellation``), so that
    the engine would go on generating for nobody; a disconnect message makes them abort it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gone = asyncio.Event()

        async def receive_or_gone() -> Message:
            message = asyncio.ensure_future(receive())
            cancelled = asyncio.ensure_future(gone.wait())
            try:
                await asyncio.wait({message, cancelled}, return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                cancelled.cancel()

        request = asyncio.ensure_future(self._app(scope, receive_or_gone, send))
        try:
            await asyncio.shield(request)
        except asyncio.CancelledError:
            gone.set()
            await asyncio.wait({request}, timeout=FINISH_SECONDS)
            request.cancel()
            raise
