"""A client process that sends one prepared gRPC message again and again, over connections of their own.

Run as `python -m pipelines.serve_bench.grpc_client TARGET BODY ANSWER CONNECTIONS SECONDS TOKEN`: BODY is a file with a
serialised ModelInferRequest, ANSWER receives the first answer. Messages stay bytes: the client parses nothing.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # or all channels would share one connection
)


def main() -> None:
    """Sends, counts and prints requests and seconds as JSON."""
    target, body_file, answer_file, connections, seconds, token = sys.argv[1:]
    body, metadata = Path(body_file).read_bytes(), (("authorization", f"Bearer {token}"),)
    channels = [grpc.insecure_channel(target, options=OPTIONS) for _ in range(int(connections))]
    calls = [channel.unary_unary(METHOD) for channel in channels]
    for call in calls:
        Path(answer_file).write_bytes(call(body, metadata=metadata, timeout=30, wait_for_ready=True))
    started = time.perf_counter()
    until = started + float(seconds)

    def send(connection: int) -> int:
        sent = 0
        while time.perf_counter() < until:
            calls[connection](body, metadata=metadata, timeout=30)  # an error ends the process: nothing is to be lost
            sent += 1
        return sent

    with ThreadPoolExecutor(len(calls)) as pool:
        requests = sum(pool.map(send, range(len(calls))))
    print(json.dumps({"requests": requests, "seconds": time.perf_counter() - started}))
    for channel in channels:
        channel.close()


if __name__ == "__main__":
    main()
