"""What an operator decides about the relay, and what it counts."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import attrs

from tavern.addresses import IPAddress
from tavern.relay.data_paths import DataPathChoice
from tavern.turn.budget import MonthlyUsage
from tavern.turn.shared_ports import SharedPortsMode


@attrs.frozen(kw_only=True)
class RelayConfig:
    """What an operator decides about the relay. Values are taken as validated."""

    hosts: tuple[str, ...] = ()
    """Numeric addresses to listen on; without any, all interfaces in both families."""
    port: int
    """UDP; 0 is any free port."""
    min_relay_port: int
    max_relay_port: int
    realm: str
    secrets: tuple[str, ...] = attrs.field(repr=False)
    """At least one; the first mints, all verify."""
    legacy_secret: str | None = attrs.field(default=None, repr=False)
    """What old clients carry; None: they are refused."""
    static_credentials: bool = True
    """Whether credentials that somebody computed from `secrets` are accepted, under the general policy."""
    advertised_addresses: tuple[IPAddress, ...]
    """What relayed addresses carry: at most one IPv4 and one IPv6."""
    allow_peers: tuple[IPv4Network | IPv6Network, ...] = ()
    """Ranges that the relay sends to although the policy denies them."""
    deny_peers: tuple[IPv4Network | IPv6Network, ...] = ()
    """Ranges that the relay never sends to."""
    user_quota: int
    """Relayed addresses per user; a dual allocation has two."""
    address_quota: int
    """Relayed addresses per client address."""
    max_allocations: int
    """In all that have a port of their own: each holds a file descriptor."""
    shared_ports: SharedPortsMode = SharedPortsMode.NEVER
    """When allocations share ports."""
    max_permissions: int
    """Per allocation."""
    max_channels: int
    """Per allocation."""
    unauthenticated_rate: int
    """Unauthenticated error answers per second and source."""
    user_bytes_per_s: int = 0
    """What one user's flows may carry, as all of them together `bytes_per_s`; 0: unlimited."""
    bytes_per_s: int = 0
    monthly_bytes: int = 0
    """What may be sent in a calendar month (UTC); 0: no budget."""
    data_path: DataPathChoice = "auto"
    """Which implementation moves the packets; auto: the compiled one, where there is one."""


@attrs.frozen(kw_only=True)
class RelayStatistics:
    """Since the start, `allocations` now. Packets and bytes are application data, without TURN's headers."""

    allocations: int
    packets_from_clients: int
    bytes_from_clients: int
    packets_to_clients: int
    bytes_to_clients: int
    drops: dict[str, int]
    """Packets that went nowhere, by reason (`tavern.turn.drops.Drop`)."""
    control_drops: int
    """Requests dropped since the control side was behind; also in `drops`."""
    unauthenticated_answers: int
    unauthenticated_suppressed: int
    """Not sent: the source's limit was reached."""
    rejected_credentials: int
    """Requests with credentials that are wrong, have run out, or belong to a session that is gone."""
    usage: MonthlyUsage
    """What was sent this month, headers estimated; also before this start where there is a store."""
