from __future__ import annotations

from anomvae.streaming.mqtt_outages import LOST, LOST_SOON, OFTEN, Outages


def test_a_connection_lost_soon_once_or_twice_is_chance_and_three_times_is_not() -> None:
    outages = Outages("broker:1883", "reader", None)
    soon = [outages.reason(LOST, accepted=True, stood=False) for _ in range(OFTEN + 1)]
    assert soon == [LOST] * (OFTEN - 1) + [LOST_SOON] * 2
    assert outages.reason(LOST, accepted=True, stood=True) == LOST, "one that stood ends the row"
    assert outages.reason(LOST, accepted=True, stood=False) == LOST


def test_a_reason_that_is_known_stays() -> None:
    outages = Outages("broker:1883", "reader", None)
    for _ in range(OFTEN + 1):
        assert outages.reason("server busy", accepted=True, stood=False) == "server busy"
    assert outages.reason("connection refused", accepted=False, stood=False) == "connection refused"
