"""Why an MQTT 5 broker ends a connection or refuses a message: what passes, and what to do about what does not."""

from __future__ import annotations

PASSING = frozenset({0x00, 0x80, 0x83, 0x88, 0x89, 0x8B, 0x8D, 0x93, 0x96, 0x97, 0x98, 0x9F, 0xA0})
"""Reasons for ending a connection that may be gone at the next attempt: the broker is busy, restarts, has had enough."""
ADVICE = {
    0x84: "it speaks no MQTT 5; use a broker that does",
    0x85: "choose another client id",
    0x86: "check user and password",
    0x87: "check user, password and the broker's access rules",
    0x8A: "ask who runs the broker",
    0x8E: "another client uses this client id; give each its own",
    0x8F: "check the filter",
    0x90: "check the topic",
    0x95: "let the broker take larger messages",
    0x97: "raise the broker's quota",
    0x9A: "choose no status topic and retain nothing",
    0x9B: "allow QoS 1 at the broker",
    0x9E: "read without a group, or use another broker",
}
"""What to do about the reasons that do not pass."""
