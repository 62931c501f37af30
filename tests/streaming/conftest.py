"""What the tests of streams share: brokers that run while the tests do."""

from __future__ import annotations

from tests.streaming.kafka_broker import kafka, kafka_to_cut, log, mock_kafka, plain_kafka, told

__all__ = ["kafka", "kafka_to_cut", "log", "mock_kafka", "plain_kafka", "told"]
