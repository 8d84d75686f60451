"""The listeners in the data path's thread: packets from UDP clients, and those to them, many with one call. Linux."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import attrs

from tavern.relay.batches import MAX_DATAGRAM, ReceiveBatch, SendBatch, batch_calls
from tavern.relay.sockaddrs import pack_sockaddr, sockaddr_size, unpack_sockaddr
from tavern.relay.sockets import Ancillary, Listener, local_address_in_pktinfo, reply_ancillary
from tavern.turn.indications import SockAddr

AT_ONCE = 64
"""Packets in one call, and that wait for one: some 0.4 ms."""
_ANCILLARY_SIZE = 64  # one in6_pktinfo with its header is 40
_PKTINFO_SIZE = {socket.AF_INET: 12, socket.AF_INET6: 20}
_NUMBER = struct.Struct("=I")


class ClientSocket:
    """One listener. A client's key is its address, the listener's number, and the local address where packets say it.

    All of it runs in the data path's thread.
    """

    def __init__(self, listener: Listener, number: int, count_unsent: Callable[[int | None], None]) -> None:
        """`count_unsent` is told the errno of each packet that was not sent."""
        self.listener = listener
        self.waiting: list[tuple[UdpClient, bytes]] = []
        """Not sent before `flush`."""
        self._sock = listener.sock
        self._count_unsent = count_unsent
        self._tag = _NUMBER.pack(number)
        self._name_size = sockaddr_size(listener.family)
        self._where = local_address_in_pktinfo(listener.family)
        self._receiving: ReceiveBatch | None = None
        self._sending: SendBatch | None = None
        if batch_calls() is not None:
            family, local, control_size = listener.family, None, 0
            if listener.has_local:
                header, control_size = socket.CMSG_LEN(0), socket.CMSG_SPACE(_PKTINFO_SIZE[family])
                local = control_size, slice(header + self._where.start, header + self._where.stop)
            self._receiving = ReceiveBatch(family, AT_ONCE, tag=self._tag, local=local)
            self._sending = SendBatch(family, AT_ONCE, control_size=control_size)

    def key(self, client: SockAddr, local: bytes) -> bytes:
        """What the packets that this client sends to this local address come with."""
        return pack_sockaddr(client) + self._tag + local

    def read_key(self, key: bytes) -> tuple[SockAddr, bytes]:
        """The client's and the local address."""
        return unpack_sockaddr(key), key[self._name_size + _NUMBER.size :]

    def client(self, address: SockAddr, local: bytes) -> UdpClient:
        """A client that is often sent to."""
        ancillary = reply_ancillary(local)
        return UdpClient(self, pack_sockaddr(address), _control(ancillary), address, ancillary)

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Up to AT_ONCE packets, each with its client's key; fewer only where no more wait.

        Or where there was an ICMP error of an earlier send, after which epoll tells of the rest.
        """
        if self._receiving is not None:
            return self._receiving.receive(self._sock.fileno(), AT_ONCE)
        packets = []
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _flags, client = self._sock.recvmsg(MAX_DATAGRAM, _ANCILLARY_SIZE)
            except OSError:
                break
            packets.append((self.key(client, ancillary[0][2][self._where] if ancillary else b""), data))
        return packets

    def put(self, client: UdpClient, data: bytes) -> None:
        """To be sent soon."""
        self.waiting.append((client, data))
        if len(self.waiting) == AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """All that was put is sent, or dropped and counted."""
        waiting = self.waiting
        if len(waiting) <= 1 or self._sending is None:
            for client, data in waiting:
                self._send(data, client.ancillary, client.address)
        else:
            for _, error in self._sending.send(self._sock.fileno(), waiting):
                self._count_unsent(error)
        waiting.clear()

    def send(self, data: bytes, address: SockAddr, local: bytes) -> None:
        """Sends at once, or drops and counts."""
        self._send(data, reply_ancillary(local), address)

    def _send(self, data: bytes, ancillary: Ancillary, address: SockAddr) -> None:
        try:
            if ancillary:
                self._sock.sendmsg((data,), ancillary, 0, address)
            else:
                self._sock.sendto(data, address)  # a third of a microsecond less
        except OSError as error:
            self._count_unsent(error.errno)


@attrs.frozen(eq=False)
class UdpClient:
    """The listener that the client sends to, and what makes packets to it leave from the address it sends to."""

    socket: ClientSocket
    name: bytes
    control: bytes
    """Both as the kernel takes them; as Python does:"""
    address: SockAddr
    ancillary: Ancillary


def _control(ancillary: Ancillary) -> bytes:
    """`struct cmsghdr` with its data."""
    raw = b""
    for level, kind, data in ancillary:
        raw += struct.pack("@Nii", socket.CMSG_LEN(len(data)), level, kind)
        raw += data.ljust(socket.CMSG_SPACE(len(data)) - socket.CMSG_LEN(0), b"\0")
    return raw
