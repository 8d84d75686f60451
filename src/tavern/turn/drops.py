"""Why the data path sent a packet nowhere. Pure."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """A reason that is counted."""

    NO_FLOW = "no_flow"
    MALFORMED = "malformed"
    NO_CHANNEL = "no_channel"
    NO_PERMISSION = "no_permission"
    NO_RELAYED_PEER = "no_relayed_peer"
    UNPROVEN_PEER = "unproven_peer"
    UNKNOWN_SOURCE = "unknown_source"
    PEER_OF_ANOTHER = "peer_of_another"
    SEND_FAILED = "send_failed"
    SEND_BUFFER_FULL = "send_buffer_full"
    RECEIVE_BUFFER_FULL = "receive_buffer_full"
    TOO_LARGE = "too_large"
    WOULD_FRAGMENT = "would_fragment"
    CONTROL_QUEUE_FULL = "control_queue_full"
    STREAM_OUTBOX_FULL = "stream_outbox_full"
    OVER_USER_RATE = "over_user_rate"
    OVER_RATE = "over_rate"
    OVER_BUDGET = "over_budget"
