"""Facts about options."""

from __future__ import annotations

import pytest

from hubplane.errors import ConfigurationError
from hubplane.options import HubOptions, TransportOptions


def test_defaults_are_those_of_the_original() -> None:
    """Without arguments the options have ASP.NET Core's values."""
    hub, transport = HubOptions(), TransportOptions()
    assert (hub.handshake_timeout, hub.keep_alive_interval, hub.client_timeout_interval) == (15, 15, 30)
    assert (hub.maximum_receive_message_size, hub.stream_buffer_capacity) == (32_768, 10)
    assert hub.maximum_parallel_invocations_per_client == 1
    assert hub.stateful_reconnect_buffer_size == 100_000
    assert not hub.enable_detailed_errors
    assert (transport.application_max_buffer_size, transport.transport_max_buffer_size) == (65_536, 65_536)
    assert (transport.transport_send_timeout, transport.disconnect_timeout, transport.close_timeout) == (10, 15, 5)


@pytest.mark.parametrize(
    "name", ["handshake_timeout", "keep_alive_interval", "maximum_parallel_invocations_per_client"]
)
def test_a_value_out_of_range_is_named(name: str) -> None:
    """A number that makes no sense is refused with the option's name."""
    with pytest.raises(ConfigurationError, match=f"HubOptions.{name} must be greater than 0"):
        HubOptions(**{name: 0})  # type: ignore[arg-type]  # mypy cannot know which option it is


def test_no_size_limit_is_allowed() -> None:
    """None lifts the message size limit."""
    assert HubOptions(maximum_receive_message_size=None).maximum_receive_message_size is None


def test_an_empty_protocol_list_is_refused() -> None:
    """A hub without protocols could serve nobody."""
    with pytest.raises(ConfigurationError, match="There are no supported protocols"):
        HubOptions(supported_protocols=())


def test_zero_lifts_buffer_limits_but_negative_is_refused() -> None:
    """0 means no limit for the buffers, as in the original; less than that is a mistake."""
    assert TransportOptions(application_max_buffer_size=0).application_max_buffer_size == 0
    with pytest.raises(ConfigurationError, match="transport_max_buffer_size must not be negative"):
        TransportOptions(transport_max_buffer_size=-1)
    with pytest.raises(ConfigurationError, match="transport_send_timeout must be greater than 0"):
        TransportOptions(transport_send_timeout=0)
