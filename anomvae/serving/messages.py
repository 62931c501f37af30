"""Messages and services of gRPC, made from descriptors of our own pool.

Generated modules would register their files in the pool that a process shares, where the same file of a client's package
lies already; two of a name clash there. Messages of a private pool meet nobody else's.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTORS = "open_inference.binpb"
"""Descriptor set of open_inference.proto and health.proto, made by `python -m grpc_tools.protoc --descriptor_set_out`."""
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


class Method(NamedTuple):
    """A method of a service.

    Attributes:
        request: Message class of requests.
        response: Message class of answers.
    """

    request: Any
    response: Any


def _own_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    content = files("anomvae.serving").joinpath(DESCRIPTORS).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.Add(file)
    return pool


_POOL = _own_pool()


def message_class(name: str) -> Any:
    """The class of a message.

    Args:
        name: Its name in package `inference`, or its full name.

    Example:
        >>> message_class("ServerLiveResponse")(live=True).live
        True
    """
    full_name = name if "." in name else f"inference.{name}"
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full_name))


def methods_of(service: str) -> dict[str, Method]:
    """The methods of a service, by name.

    Args:
        service: Full name.
    """
    return {
        method.name: Method(
            message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)
        )
        for method in _POOL.FindServiceByName(service).methods
    }


ModelInferRequest = message_class("ModelInferRequest")
ModelInferResponse = message_class("ModelInferResponse")
