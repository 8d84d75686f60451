"""The flows, and what commands change of them: permissions, channels, and which exact peers they know. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import attrs

from tavern.addresses import SocketAddress
from tavern.turn.claims import CheckLimiter, Claim
from tavern.turn.commands import (
    AddFlow,
    AddOwnHost,
    AddRelayedAddress,
    BindChannel,
    LearnPeer,
    RemoveFlow,
    RemoveOwnHost,
    RemoveRelayedAddress,
    RevokePermission,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.flows import NEVER_PERMITTED, Flow, FlowPermission, KnownPeer, Traffic, sockaddr_of
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Meter
from tavern.turn.shared_flows import SharedPort

Handle = TypeVar("Handle")


class FlowTable(Generic[Handle]):
    """All flows, by what packets name them with. The control side changes it only through commands."""

    def __init__(self, own_hosts: frozenset[str], listener_ports: frozenset[int], meter: Meter) -> None:
        """See Forwarder."""
        self._traffic_of_removed = Traffic()
        self._own_hosts = set(own_hosts)
        self._listener_ports = listener_ports
        self._checks = CheckLimiter()
        self._meter = meter
        self._limits = meter if meter.is_limiting else None  # all that a packet has to look at
        self._flows: dict[int, Flow[Handle]] = {}
        self._by_client: dict[Hashable, Flow[Handle]] = {}
        self._by_relayed: dict[SockAddr, Flow[Handle]] = {}  # where no other flow has the address
        self._ports: dict[SockAddr, SharedPort[Flow[Handle]]] = {}  # as they were opened
        self._shared: dict[SockAddr, SharedPort[Flow[Handle]]] = {}  # by each relayed address that they are now

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow[Handle]]:
        return iter(self._flows.values())

    def has_flow(self, client_key: Hashable) -> bool:
        """Whether packets from `client_key` are those of a flow's client."""
        return client_key in self._by_client

    def traffic(self) -> Traffic:
        """What was relayed so far, by flows that live and that are gone. In proportion to the number of flows."""
        total = attrs.evolve(self._traffic_of_removed)
        for flow in self._flows.values():
            total.add(flow)
        return total

    def open_shared(self, address: SocketAddress) -> None:
        """Several flows may have this relayed address. Before the first packet, and until the end."""
        sockaddr = sockaddr_of(address)
        self._ports[sockaddr] = self._shared[sockaddr] = SharedPort(sockaddr)

    # Commands

    def add_flow(self, command: AddFlow, client_key: Hashable, handle: Handle) -> Flow[Handle]:
        """The flow exists; packets from `client_key` are its client's."""
        account = self._meter.join(command.user)
        flow = Flow(command.flow_id, client_key, handle, command.user, command.circles, account)
        self._flows[flow.id] = flow
        self._by_client[client_key] = flow
        self._set_relayed(flow, command)
        return flow

    def add_relayed_address(self, command: AddRelayedAddress) -> Flow[Handle] | None:
        """See the command. The flow is returned, for the shell to give it the socket; None if there is none."""
        flow = self._flows.get(command.flow_id)
        if flow is not None:
            self._set_relayed(flow, command)
        return flow

    def remove_relayed_address(self, command: RemoveRelayedAddress) -> Flow[Handle] | None:
        """See the command. The flow is returned, for the shell to close the socket; None if there is none."""
        flow = self._flows.get(command.flow_id)
        address = sockaddr_of(command.relayed_address)
        if flow is None or address not in flow.relayed:
            return None
        self._by_relayed.pop(address, None)
        flow.drop_relayed(address)
        return flow

    def _set_relayed(self, flow: Flow[Handle], command: AddFlow | AddRelayedAddress) -> None:
        address = sockaddr_of(command.relayed_address)
        if command.shared:
            flow.set_relayed(address, self._shared[address])
        else:
            flow.set_relayed(address, None)
            self._by_relayed[address] = flow

    def remove_flow(self, command: RemoveFlow) -> Flow[Handle] | None:
        """The flow is gone and returned, for the shell to close its sockets; None if there was none."""
        flow = self._flows.pop(command.flow_id, None)
        if flow is not None:
            del self._by_client[flow.client_key]
            for address in flow.relayed:
                if self._by_relayed.pop(address, None) is None:
                    flow.drop_relayed(address)  # for others on the shared port, what it knew is nobody's
            self._traffic_of_removed.add(flow)
            self._meter.leave(flow.user)
        return flow

    def set_transfer(self, command: SetTransfer) -> None:
        """See the command."""
        self._meter.set_budget_spent(not command.allowed)
        self._limits = self._meter if self._meter.is_limiting else None

    def add_own_host(self, command: AddOwnHost) -> None:
        """See the command."""
        if command.host not in self._own_hosts:
            self._forget_host(command.host)
            self._own_hosts.add(command.host)
        if command.shared:
            for opened, port in self._ports.items():
                if (":" in opened[0]) == (":" in command.host):
                    self._shared[sockaddr_of((command.host, opened[1]))] = port

    def remove_own_host(self, command: RemoveOwnHost) -> None:
        """See the command."""
        self._forget_host(command.host)
        self._own_hosts.discard(command.host)
        for address in [address for address in self._shared if address[0] == command.host]:
            del self._shared[address]

    def _forget_host(self, host: str) -> None:
        for flow in self._flows.values():
            flow.forget_host(host)

    def set_circles(self, command: SetCircles) -> None:
        """See the command. Like all others, without effect for a flow that is gone."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.circles = command.circles

    def set_permission(self, command: SetPermission) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is None:
            return
        permission = flow.permissions.get(command.host)
        if permission is None:
            permission = FlowPermission(command.expires_at, command.relayed_only, command.own)
            flow.permissions[command.host] = permission
        permission.expires_at = command.expires_at
        if command.claimed != permission.claimed:
            permission.claimed = command.claimed
            permission.claim = Claim(flow.user, command.host, self._checks) if command.claimed else None
        permission.relayed_only = command.relayed_only
        if command.own and not permission.own:
            for port in self._listener_ports:
                flow.forget(sockaddr_of((command.host, port)))
        permission.own = command.own

    def revoke_permission(self, command: RevokePermission) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.revoke(command.host)

    def bind_channel(self, command: BindChannel) -> None:
        """See the command. Without effect where another flow of the shared port owns the peer."""
        if (flow := self._flows.get(command.flow_id)) is None:
            return
        address = sockaddr_of(command.peer)
        if self._is_listener(address, flow.permissions.get(address[0], NEVER_PERMITTED)):
            return
        peer = None if self._is_anothers(flow, address) else self._know(flow, address)
        if peer is None:
            return
        if flow.channels.get(command.number) is not peer:
            flow.unbind(command.number)
            flow.unbind(peer.number)
            self._keep(flow, peer)  # it may have gone with its other number
        peer.number = command.number
        peer.channel_expires_at = command.expires_at
        peer.channel_relayed_only = command.relayed_only
        permission = flow.permissions.get(address[0])
        if permission is not None:
            flow.permit(peer, permission)
        flow.channels[command.number] = peer

    def unbind_channel(self, command: UnbindChannel) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.unbind(command.number)

    def learn_peer(self, command: LearnPeer) -> None:
        """See the command. Without effect where the peer's host is not permitted, or another flow owns it."""
        if (flow := self._flows.get(command.flow_id)) is None:
            return
        address = sockaddr_of(command.peer)
        permission = flow.permissions.get(address[0])
        if permission is None or self._is_listener(address, permission) or self._is_anothers(flow, address):
            return
        if (peer := self._know(flow, address)) is not None:
            flow.permit(peer, permission)

    # Known peers. Of those who share a port, one owns each exact peer outside: his are the packets that come from it.

    def _know(self, flow: Flow[Handle], address: SockAddr) -> KnownPeer | None:
        """The entry of this exact peer, made if there is none; it permits nothing by itself.

        None if there is none and another flow of the shared port owns the address.
        """
        peer = flow.peers.get(address)
        if peer is None and not self._is_anothers(flow, address):
            flow.make_room()
            peer = KnownPeer(address, NEVER_PERMITTED, ours=address[0] in self._own_hosts)
            self._keep(flow, peer)
        return peer

    def _keep(self, flow: Flow[Handle], peer: KnownPeer) -> None:
        flow.peers[peer.address] = peer
        port = flow.shared_port(peer.address)
        if port is not None and self._is_outside(peer.address):
            port.owners.setdefault(peer.address, flow)

    def _is_anothers(self, flow: Flow[Handle], address: SockAddr) -> bool:
        port = flow.shared_port(address)
        return port is not None and port.owners.get(address, flow) is not flow and self._is_outside(address)

    def _is_outside(self, address: SockAddr) -> bool:
        """Whether it is not a relayed address of ours: between those, packets are handed over."""
        return address not in self._by_relayed and address not in self._shared

    def _permission(self, flow: Flow[Handle], address: SockAddr, now: float) -> FlowPermission | None:
        """The one that holds for this exact peer."""
        permission = flow.permissions.get(address[0])
        if permission is None or permission.expires_at <= now or self._is_listener(address, permission):
            return None
        return permission

    def _is_listener(self, address: SockAddr, permission: FlowPermission) -> bool:
        """Whether the relay listens there: such a peer would make it its own client."""
        return address[1] in self._listener_ports and (permission.own or address[0] in self._own_hosts)
