"""The asyncio client says what the other one says."""

import asyncio

import pytest

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.server import AsyncGenomicsClient, DeadlineExceeded, InvalidRequest, NotFound, Variant


def test_every_method_answers_as_in_the_plain_client(server, client):
    window, changes = "ACGTACGT", [Variant(0, "A", "G"), Variant(2, "", "TT")]

    async def ask():
        async with AsyncGenomicsClient(server.address, timeout=20) as asking:
            events = [event async for event in asking.generate("ACGT", max_new_tokens=20, seed=1)]
            scores = await asking.score(["ACGT", "AC"], prepend_eod=True)
            variants = [score async for score in asking.score_variants(window, changes)]
            return await asking.get_model(), events[1:], scores, variants

    expected = (
        client.get_model(),
        list(client.generate("ACGT", max_new_tokens=20, seed=1))[1:],
        client.score(["ACGT", "AC"], prepend_eod=True),
        list(client.score_variants(window, changes)),
    )
    assert asyncio.run(ask()) == expected


def test_errors_are_typed_with_their_violations(server):
    async def ask():
        async with AsyncGenomicsClient(server.address, timeout=20) as asking:
            with pytest.raises(InvalidRequest) as caught:
                await asking.score(["ACGT", "AX"])
            assert caught.value.violations[0].field == "sequences[1]"
            with pytest.raises(NotFound):
                await asking.get_model(model="other")
            stream = asking.generate("")
            with pytest.raises(InvalidRequest, match="prompt: is empty"):
                await anext(stream)

    asyncio.run(ask())


def test_leaving_a_stream_or_the_client_frees_the_slots():
    with RunningServer(FakeScheduler(step_seconds=0.02)) as server:

        async def leave():
            async with AsyncGenomicsClient(server.address) as asking:
                async with asking.generate("ACGT", max_new_tokens=4000) as stream:
                    await anext(stream)
                kept = asking.generate("ACGT", max_new_tokens=4000)
                await anext(kept)
                with pytest.raises(DeadlineExceeded):
                    async for _ in asking.generate("ACGT", max_new_tokens=4000, timeout=0.3):
                        pass

        asyncio.run(leave())
        wait_until(lambda: server.scheduler.stats().running == 0)
