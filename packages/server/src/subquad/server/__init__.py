"""gRPC serving of DNA language models: limits, typed client and errors here; the server behind the extra ``[serve]``.

Importing this package imports neither torch nor the engine; the names below are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subquad.server.async_client import AsyncGenomicsClient as AsyncGenomicsClient
    from subquad.server.async_client import AsyncStream as AsyncStream
    from subquad.server.channel import Connection as Connection
    from subquad.server.client import GenerationStream as GenerationStream
    from subquad.server.client import GenomicsClient as GenomicsClient
    from subquad.server.client import Stream as Stream
    from subquad.server.errors import DeadlineExceeded as DeadlineExceeded
    from subquad.server.errors import FieldViolation as FieldViolation
    from subquad.server.errors import InternalError as InternalError
    from subquad.server.errors import InvalidRequest as InvalidRequest
    from subquad.server.errors import ListenError as ListenError
    from subquad.server.errors import MethodNotOffered as MethodNotOffered
    from subquad.server.errors import NotFound as NotFound
    from subquad.server.errors import Overloaded as Overloaded
    from subquad.server.errors import PermissionDenied as PermissionDenied
    from subquad.server.errors import RequestCancelled as RequestCancelled
    from subquad.server.errors import RequestError as RequestError
    from subquad.server.errors import ServerError as ServerError
    from subquad.server.errors import SettingsError as SettingsError
    from subquad.server.errors import Unauthenticated as Unauthenticated
    from subquad.server.errors import Unavailable as Unavailable
    from subquad.server.errors import UnsupportedRequest as UnsupportedRequest
    from subquad.server.limits import ServingLimits as ServingLimits
    from subquad.server.messages import Delta as Delta
    from subquad.server.messages import EmbeddingPart as EmbeddingPart
    from subquad.server.messages import Finished as Finished
    from subquad.server.messages import GeneratedSequence as GeneratedSequence
    from subquad.server.messages import ModelInfo as ModelInfo
    from subquad.server.messages import SequenceScore as SequenceScore
    from subquad.server.messages import Started as Started
    from subquad.server.messages import Variant as Variant
    from subquad.server.messages import VariantScore as VariantScore

_MODULE_OF = {
    "AsyncGenomicsClient": "async_client",
    "AsyncStream": "async_client",
    "Connection": "channel",
    "GenerationStream": "client",
    "GenomicsClient": "client",
    "Stream": "client",
    "DeadlineExceeded": "errors",
    "FieldViolation": "errors",
    "InternalError": "errors",
    "InvalidRequest": "errors",
    "ListenError": "errors",
    "MethodNotOffered": "errors",
    "NotFound": "errors",
    "Overloaded": "errors",
    "PermissionDenied": "errors",
    "RequestCancelled": "errors",
    "RequestError": "errors",
    "ServerError": "errors",
    "SettingsError": "errors",
    "Unauthenticated": "errors",
    "Unavailable": "errors",
    "UnsupportedRequest": "errors",
    "ServingLimits": "limits",
    "Delta": "messages",
    "EmbeddingPart": "messages",
    "Finished": "messages",
    "GeneratedSequence": "messages",
    "ModelInfo": "messages",
    "SequenceScore": "messages",
    "Started": "messages",
    "Variant": "messages",
    "VariantScore": "messages",
}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
