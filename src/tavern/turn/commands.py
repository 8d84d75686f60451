"""What the control side tells the world to do. Pure values.

All but `OpenRelaySocket` are commands to the data path, which executes them in the order given: a success response
never overtakes the permission that it announces. They are all that a data path in another language has to understand.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from tavern.addresses import SocketAddress
from tavern.stun.attributes import AddressFamily
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.sessions import Circles


@attrs.frozen
class OpenRelaySocket:
    """To the driver: bind a relay socket, then call `relay_opened` or `relay_failed` with this `flow_id` at once.

    A flow has at most one of each family.
    """

    flow_id: int
    family: AddressFamily
    port: int


@attrs.frozen
class AddFlow:
    """The relay socket that was opened for `flow_id` belongs to this client now, and carries `relayed_address`."""

    flow_id: int
    five_tuple: FiveTuple
    relayed_address: SocketAddress
    user: Hashable
    """Who its transfer is counted for: flows of the same user share a rate."""
    circles: Circles | None
    """What it has in common with the flows that it reaches; None: it reaches all others that have none, too."""
    shared: bool = False
    """No socket was opened: `relayed_address` is that of a shared port, which other flows have, too."""


@attrs.frozen
class AddRelayedAddress:
    """The flow has a second relay socket, of the other family, which carries `relayed_address`."""

    flow_id: int
    relayed_address: SocketAddress
    shared: bool = False
    """As in AddFlow."""


@attrs.frozen
class RemoveRelayedAddress:
    """Of two: close its relay socket unless it is shared, forget permissions and channels for peers of its family."""

    flow_id: int
    relayed_address: SocketAddress


@attrs.frozen
class RemoveFlow:
    """The allocation is gone: close the relay sockets that it does not share, forget its permissions and channels."""

    flow_id: int


@attrs.frozen
class SetCircles:
    """The flow, which had circles, has these from now on."""

    flow_id: int
    circles: Circles


@attrs.frozen
class SetPermission:
    """Packets from and to `host` pass until `expires_at` (the core's clock); installs or refreshes."""

    flow_id: int
    host: str
    expires_at: float
    relayed_only: bool
    """`host` is ours: only ports that are relayed addresses of live flows count as peers."""
    own: bool
    """`host` is this machine's: the ports that the relay listens on are no peers."""
    claimed: bool
    """Somebody says that he is at `host`: only checks leave to it until it speaks. What has spoken stays proven."""


@attrs.frozen
class RevokePermission:
    """Packets from and to `host` pass no longer."""

    flow_id: int
    host: str


@attrs.frozen
class BindChannel:
    """`number` stands for `peer` until `expires_at`; installs or refreshes, and ends what either was before."""

    flow_id: int
    number: int
    peer: SocketAddress
    expires_at: float
    relayed_only: bool


@attrs.frozen
class UnbindChannel:
    """`number` stands for nobody any more."""

    flow_id: int
    number: int


@attrs.frozen
class LearnPeer:
    """On a shared port, what comes from this exact peer outside of this server is for this flow.

    Until its permission and channel are gone. Follows the SetPermission for its host.
    """

    flow_id: int
    peer: SocketAddress


@attrs.frozen
class SetTransfer:
    """Whether data is relayed at all: not while the month's budget is used up. It is, at first."""

    allowed: bool


@attrs.frozen
class AddOwnHost:
    """This is the relay's own address, too; what flows knew of peers there is forgotten. At most 8 are, at a time.

    `shared`: each shared port of its family is a relayed address there, too.
    """

    host: str
    shared: bool


@attrs.frozen
class RemoveOwnHost:
    """This is somebody else's address by now. No flow has a relayed address there."""

    host: str


@attrs.frozen
class SendToClient:
    """One STUN message to the client, from the address that its request came to."""

    five_tuple: FiveTuple
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class CloseClient:
    """The client's stream ends once what was sent to it before has gone out; never for a client over UDP."""

    five_tuple: FiveTuple


Command = (
    AddFlow
    | AddRelayedAddress
    | RemoveRelayedAddress
    | RemoveFlow
    | SetCircles
    | SetPermission
    | RevokePermission
    | BindChannel
    | UnbindChannel
    | LearnPeer
    | SetTransfer
    | AddOwnHost
    | RemoveOwnHost
    | SendToClient
    | CloseClient
)
Effect = OpenRelaySocket | Command
