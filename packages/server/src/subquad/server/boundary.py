"""The border of the service: everything that holds for every call, so that the methods know nothing of gRPC.

It names each call, refuses calls while the server is not serving, turns unparsable bytes and errors into statuses,
keeps the deadline, counts and logs (never a sequence), and can end all calls at once.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from subquad.server.errors import (
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    NonFiniteOutput,
    RequestError,
)
from subquad.server.health import Readiness
from subquad.server.limits import SERVICE_NAME, ServingLimits
from subquad.server.metrics import Metrics
from subquad.server.status import REQUEST_ID_KEY, status_of

logger = logging.getLogger(__name__)

CANCELLATION_SECONDS = 1.0
ACCEPTED_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Call:
    """One call as the methods see it.

    Attributes:
      method: The method's short name.
      request_id: The caller's ``x-request-id`` where it is well formed, else a new one.
      arrived: `time.monotonic` of its arrival.
    """

    def __init__(self, method: str, request_id: str) -> None:
        self.method = method
        self.request_id = request_id
        self.arrived = time.monotonic()
        self._timeout: asyncio.Timeout | None = None
        self._interruption: RequestError | None = None

    @asynccontextmanager
    async def running(self, seconds: float) -> AsyncIterator[None]:
        """Runs the block for at most `seconds`; raises DeadlineExceeded, or the error of `end`."""
        self._timeout = asyncio.timeout(seconds)
        try:
            async with self._timeout:
                yield
        except TimeoutError as error:
            if not self._timeout.expired() or isinstance(error, RequestError):
                raise
            raise self._interruption or DeadlineExceeded(f"the request did not end within {seconds:g} s") from None

    def end(self, error: RequestError) -> None:
        """Ends the call with `error` at its next step."""
        if self._timeout is not None and self._interruption is None:
            self._interruption = error
            self._timeout.reschedule(asyncio.get_running_loop().time())


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the methods of the genomics service; health and reflection pass untouched."""

    def __init__(self, readiness: Readiness, limits: ServingLimits, metrics: Metrics) -> None:
        self._readiness, self._limits, self._metrics = readiness, limits, metrics
        self._calls: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Gives the handler a border, which passes it a `Call` in place of gRPC's context."""
        handler: Any = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if handler is None or service != SERVICE_NAME:
            return handler
        handler = handler._replace(request_deserializer=_tolerant(handler.request_deserializer))
        if handler.response_streaming:
            return handler._replace(unary_stream=self._streaming(method, handler.unary_stream))
        return handler._replace(unary_unary=self._unary(method, handler.unary_unary))

    def _unary(self, method: str, behaviour: Callable[[Any, Call], Awaitable[Any]]) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            async with self._border(method, request, context) as call:
                response = await behaviour(request, call)
                await _sent_headers(context, call)
                return response

        return answer

    def _streaming(self, method: str, behaviour: Callable[[Any, Call], AsyncGenerator[Any, None]]) -> Any:
        # Messages are written, not yielded, so that a deadline also ends a write to a reader who has stalled.
        async def answer(request: Any, context: Any) -> None:
            async with self._border(method, request, context) as call, aclosing(behaviour(request, call)) as messages:
                first = True
                async for message in messages:
                    if first:
                        # Sent late: until then a client may still retry the call on another server.
                        await _sent_headers(context, call)
                        first = False
                    await _sent(context.write(message))

        return answer

    @asynccontextmanager
    async def _border(self, method: str, request: Any, context: Any) -> AsyncIterator[Call]:
        call = Call(method, _request_id(context))
        code, refusal = grpc.StatusCode.OK, None
        self._enter(call)
        try:
            self._readiness.check()
            if isinstance(request, Unparsable):
                raise InvalidRequest(request.problem, violations=(FieldViolation("request", request.problem),))
            async with call.running(self._limits.deadline(context.time_remaining())):
                yield call
        except RequestError as error:
            refusal = error
            if isinstance(error, InternalError):
                logger.error("request %s: %s failed", call.request_id, method, exc_info=error)
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            late = remaining is not None and remaining <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception:
            logger.exception("request %s: %s failed", call.request_id, method)
            refusal = InternalError("the server failed; its log names the cause under this request id")
        finally:
            if refusal is not None:
                code = status_of(refusal)[0]
            self._leave(call, code, refusal)
        if refusal is not None:
            refusal.request_id = call.request_id
            await _abort(context, refusal)

    def _enter(self, call: Call) -> None:
        self._calls.add(call)
        self._idle.clear()
        self._metrics.in_flight.inc()

    def _leave(self, call: Call, code: grpc.StatusCode, refusal: RequestError | None) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()
        elapsed = time.monotonic() - call.arrived
        self._metrics.in_flight.dec()
        self._metrics.requests.labels(call.method, code.name).inc()
        if isinstance(refusal, NonFiniteOutput):
            self._metrics.non_finite.inc()
        self._metrics.duration.labels(call.method).observe(elapsed)
        fields = ",".join(violation.field for violation in refusal.violations) if refusal else ""
        logger.info(
            "request=%s method=%s code=%s seconds=%.4f%s",
            call.request_id,
            call.method,
            code.name,
            elapsed,
            f" fields={fields}" if fields else "",
        )

    async def wait_idle(self, seconds: float) -> bool:
        """Waits until no call runs; False where calls still ran after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def end_all(self, error: Callable[[], RequestError]) -> None:
        """Ends every running call with an error of its own."""
        for call in self._calls:
            call.end(error())


class Unparsable:
    """Stands for a request whose bytes are no message of its type."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that does not raise: gRPC would answer UNKNOWN with the parser's text."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Unparsable("the request's bytes are no message of this method's type")

    return parse


async def _sent(sending: Awaitable[None]) -> None:
    """Awaits a send; where the reader has gone it fails a moment before gRPC cancels the handler, so wait for that."""
    try:
        await sending
    except Exception:
        await asyncio.sleep(CANCELLATION_SECONDS)
        raise


async def _sent_headers(context: Any, call: Call) -> None:
    """Sends the headers whole, whatever a deadline says: gRPC takes no status while they are on their way."""
    sending = asyncio.ensure_future(context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),)))
    sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # a failure is heard of, if only here
    try:
        await _sent(asyncio.shield(sending))
    except asyncio.CancelledError:
        await asyncio.wait({sending}, timeout=CANCELLATION_SECONDS)
        raise


async def _abort(context: Any, refusal: RequestError) -> None:
    """Ends the call with the status of an error; a caller who has gone meanwhile is a cancellation."""
    code, message, status = status_of(refusal)
    try:
        await context.abort(code, message, (*status.trailing_metadata, (REQUEST_ID_KEY, refusal.request_id)))
    except grpc.aio.AbortError:
        raise
    except Exception:
        raise asyncio.CancelledError from None


def _request_id(context: Any) -> str:
    given = next((value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY), "")
    accepted = isinstance(given, str) and ACCEPTED_REQUEST_ID.fullmatch(given)
    return given if accepted else uuid.uuid4().hex
