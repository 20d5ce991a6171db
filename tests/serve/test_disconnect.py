import asyncio

from starlette.types import Message, Receive, Scope, Send

from tatara.serve.disconnect import DisconnectOnCancel

SCOPE: Scope = {"type": "http"}


async def _send(_: Message) -> None:
    return


def test_a_cancelled_request_looks_to_the_application_like_a_client_that_left() -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        bodies = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            return next(bodies, None) or await never

        async def application(_: Scope, receive: Receive, __: Send) -> None:
            # Like vLLM's routes: the work goes on in a task that only a disconnect message ends.
            while (message := await receive())["type"] != "http.disconnect":
                seen.append(message["type"])
            seen.append("http.disconnect")

        request = asyncio.create_task(DisconnectOnCancel(application)(SCOPE, receive, _send))
        await asyncio.sleep(0.05)
        request.cancel()
        await asyncio.wait({request})
        assert request.cancelled()
        return seen

    assert asyncio.run(scenario()) == ["http.request", "http.disconnect"]


def test_a_request_that_ends_by_itself_passes_its_failure_on() -> None:
    async def application(_: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200})
        raise LookupError

    async def scenario() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await DisconnectOnCancel(application)(SCOPE, receive, send)
        except LookupError:
            return sent
        raise AssertionError("the failure was swallowed")

    assert [message["status"] for message in asyncio.run(scenario())] == [200]
