"""A server's relay, tried as a browser would: each way to it on its own, with data through and back."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import attrs
import trio

from tavern.addresses import SocketAddress, format_socket_address
from tavern.client import Client, IceServers, ReceivedIceCandidate
from tavern.client.relayed import DATA_TIMEOUT_S, TRIES, Relayed, talk
from tavern.client.turn import NoAnswer, TurnClient, TurnRefused, open_turn
from tavern.doctor.findings import Finding, Level
from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse

SAMPLED_PORTS = 3
MAX_AMPLIFICATION = 3.0
"""RFC 8085's and QUIC's measure: an answer to somebody unknown is at most three times what he sent."""

_PRIVATE_PEERS = ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1")
"""This machine, its neighbours, a cloud's metadata service, a provider's own network."""
_FORBIDDEN = 403
_MAX_DATAGRAM = 65535
_SIGNALING_TIMEOUT_S = 5.0
_TRANSPORTS = {"udp": "UDP", "tcp": "TCP", "tls": "TLS"}

Report = Callable[[Finding], None]


@attrs.frozen(kw_only=True)
class Way:
    """One of the TURN URLs that the server hands out, at one of its host's addresses."""

    host: str
    address: SocketAddress
    transport: str
    """`udp`, `tcp` or `tls`."""
    username: str
    password: str = attrs.field(repr=False)

    def __str__(self) -> str:
        family = "IPv6" if ":" in self.address[0] else "IPv4"
        return f"TURN over {_TRANSPORTS[self.transport]}, {family}"

    @property
    def where(self) -> str:
        return format_socket_address(*self.address)


@attrs.define
class Person:
    """One of the two in the call that the doctor makes."""

    client: Client
    servers: IceServers
    peer_id: str = ""


async def examine_relay(alice: Person, bob: Person, report: Report, ssl_context: ssl.SSLContext) -> None:
    """Both are in one room. Reports each thing; raises ConnectionLost where the server goes away meanwhile."""
    ways, partners = await _ways(alice.servers, report), await _ways(bob.servers, lambda _finding: None)
    if not partners:
        return
    worked: list[Way] = []
    judged: set[str] = set()
    for way in ways:
        relayed = await _try_way(way, partners, report, ssl_context)
        if relayed is None:
            continue
        worked.append(way)
        if relayed[0] not in judged:
            judged.add(relayed[0])
            _judge_relayed(way, relayed, report)
    if not worked:
        return
    async with _opened(worked[0], ssl_context) as client:
        await _try_private_peers(client, report)
    await _measure_amplification(worked[0], report, ssl_context)
    over_udp = next((way for way in worked if way.transport == "udp"), None)
    if over_udp is None:
        report(Finding(Level.NOTE, "relay ports", "not tried: the relay is not reached over UDP"))
    else:
        await _sample_relay_ports(over_udp, alice, bob, report, ssl_context)


async def _ways(servers: IceServers, report: Report) -> list[Way]:
    ways: list[Way] = []
    for server in servers.iceServers:
        for url in server.urls:
            scheme, _, rest = url.partition(":")
            if scheme not in ("turn", "turns"):
                continue
            place, _, query = rest.partition("?")
            host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "")
            transport = "tls" if scheme == "turns" else "tcp" if query == "transport=tcp" else "udp"
            number = int(port) if port.isdigit() else 5349 if scheme == "turns" else 3478
            name = (host or place).strip("[]")
            addresses = await resolve(name, number)
            if not addresses:
                report(
                    Finding(
                        Level.PROBLEM,
                        f"address of {url}",
                        f"{name} does not resolve",
                        "browsers cannot find the relay",
                        "mend the name's A and AAAA records, or set TAVERN_DOMAIN to one that resolves",
                    )
                )
            ways += [
                Way(
                    host=name,
                    address=address,
                    transport=transport,
                    username=server.username or "",
                    password=server.credential or "",
                )
                for address in addresses
            ]
    return ways


async def resolve(host: str, port: int) -> list[SocketAddress]:
    """The first address of each family; empty where there is none."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    by_family: dict[int, SocketAddress] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(int(family), (str(address[0]), port))
    return list(by_family.values())


@asynccontextmanager
async def _opened(way: Way, ssl_context: ssl.SSLContext) -> AsyncIterator[TurnClient]:
    async with open_turn(
        way.address, way.transport, way.username, way.password, ssl_context=ssl_context, server_name=way.host
    ) as client:
        yield client


async def _try_way(
    way: Way, partners: Sequence[Way], report: Report, ssl_context: ssl.SSLContext
) -> SocketAddress | None:
    """The relayed address, if data went through it and back, to an allocation of the other one."""
    # The other's credential, by the same way where there is one: what fails is this way then.
    same = (other for other in partners if (other.address, other.transport) == (way.address, way.transport))
    partner_way = next(same, partners[0])
    try:
        async with _opened(way, ssl_context) as client, _opened(partner_way, ssl_context) as partner:
            seen, own = await client.binding(), await Relayed.allocate(client)
            relayed, passes = own.address, await talk(own, await Relayed.allocate(partner))
            await client.release()
            await partner.release()
    except (NoAnswer, TurnRefused) as failed:
        report(_failed_way(way, failed))
        return None
    if not passes:
        report(
            Finding(
                Level.PROBLEM,
                str(way),
                f"{way.where} allocates {format_socket_address(*relayed)}, but what is sent through it is lost",
                "calls that need the relay have no sound",
                "look at the server's log with TAVERN_LOG_LEVEL=debug, and whether its clock or network just changed",
            )
        )
        return None
    report(Finding(Level.OK, str(way), f"{way.where} relays there and back as {relayed[0]}, and sees you at {seen[0]}"))
    return relayed


def _failed_way(way: Way, failed: NoAnswer | TurnRefused) -> Finding:
    if isinstance(failed, TurnRefused):
        return Finding(
            Level.PROBLEM,
            str(way),
            f"{way.where} refuses: {failed}",
            "calls that need the relay fail",
            {
                401: "compare the server's clock with the world's, and TAVERN_TURN_SECRET with what mints credentials",
                486: "raise TAVERN_TURN_USER_QUOTA, TAVERN_TURN_ADDRESS_QUOTA, or the month's TAVERN_TURN_MONTHLY_GB",
                508: "widen TAVERN_TURN_MIN_PORT to TAVERN_TURN_MAX_PORT, or set TAVERN_TURN_SHARED_PORTS=always",
            }.get(failed.code, "look at the server's log with TAVERN_LOG_LEVEL=debug"),
        )
    kind = "udp" if way.transport == "udp" else "tcp"
    return Finding(
        Level.PROBLEM,
        str(way),
        f"{way.where}: {failed}",
        {
            "udp": "who is behind a strict network has no sound, and others reach the relay by slower ways",
            "tcp": "who is in a network that lets no UDP out has no sound",
            "tls": "who is in a network that lets only TLS out has no sound",
        }[way.transport],
        f"open port {way.address[1]}/{kind} in the firewall of the machine and of its provider"
        + (", or publish it in the compose file" if way.transport != "tls" else ", and check the certificate's name"),
    )


def _judge_relayed(way: Way, relayed: SocketAddress, report: Report) -> None:
    address, server = ip_address(relayed[0]), ip_address(way.address[0])
    if address.is_global:
        report(Finding(Level.OK, "relayed address", f"{address} is public"))
    elif server.is_global:
        report(
            Finding(
                Level.PROBLEM,
                "relayed address",
                f"the relay says that it is at {address}, which is a private address",
                "nobody outside of the server's own network reaches it: relayed calls have no sound",
                f"set TAVERN_EXTERNAL_IP={server}",
            )
        )
    else:
        report(
            Finding(
                Level.NOTE,
                "relayed address",
                f"{address} is private, as the server's {server} is: people in this network can talk, no others",
            )
        )


async def _try_private_peers(client: TurnClient, report: Report) -> None:
    subject, reached = "private peers", []
    try:
        await client.allocate()
        for host in _PRIVATE_PEERS:
            try:
                await client.permit((host, 9))
            except TurnRefused as refused:
                if refused.code != _FORBIDDEN:
                    raise
            else:
                reached.append(host)
        await client.release()
    except (NoAnswer, TurnRefused) as failed:
        report(Finding(Level.WARNING, subject, f"could not be tried: {failed}"))
        return
    if reached:
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"the relay sends to {', '.join(reached)} for anybody in a call",
                "strangers reach the server's own network through it",
                "take these addresses out of TAVERN_TURN_ALLOW_PEERS; another relay than Tavern's: deny them there",
            )
        )
    else:
        report(Finding(Level.OK, subject, f"the relay refuses all of {', '.join(_PRIVATE_PEERS)}"))


async def _measure_amplification(way: Way, report: Report, ssl_context: ssl.SSLContext) -> None:
    subject = "amplification"
    try:
        async with _opened(way, ssl_context) as client:
            asked, answered = await client.challenge_size()
    except NoAnswer as failed:
        report(Finding(Level.NOTE, subject, f"the relay gives no challenge: {failed}"))
        return
    factor = answered / asked
    what = f"who asks with {asked} bytes is answered with {answered}: {factor:.1f} times as many"
    if factor <= MAX_AMPLIFICATION:
        report(Finding(Level.OK, subject, what))
    else:
        report(
            Finding(
                Level.WARNING,
                subject,
                what,
                "with forged addresses it could be used to flood somebody",
                "shorten TAVERN_DOMAIN, which the answer names; Tavern also limits such answers (TAVERN_TURN_401_RATE)",
            )
        )


async def _sample_relay_ports(
    way: Way, alice: Person, bob: Person, report: Report, ssl_context: ssl.SSLContext
) -> None:
    """Whether packets from here reach relay ports, as those of people who need no relay themselves do."""
    subject = "relay ports"
    family = socket.AF_INET6 if ":" in way.address[0] else socket.AF_INET
    reached: set[int] = set()
    missed: set[int] = set()
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            own = await _seen_address(sock, way.address)
            await _announce(own, bob, alice)
            for _ in range(SAMPLED_PORTS):
                async with _opened(way, ssl_context) as client:
                    relayed = await client.allocate()
                    await client.permit(own)
                    (reached if await _arrives(sock, client, relayed) else missed).add(relayed[1])
                    await client.release()
        except TurnRefused as refused:
            level = Level.NOTE if refused.code == _FORBIDDEN else Level.WARNING
            report(
                Finding(level, subject, f"cannot be tried from here: the relay refuses your own address ({refused})")
            )
            return
        except NoAnswer as failed:
            report(Finding(Level.WARNING, subject, f"could not be tried: {failed}"))
            return
    if missed:
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"nothing from here reaches {_listed(missed)} of the relay",
                "people who need no relay themselves do not hear those who do",
                "open TAVERN_TURN_MIN_PORT to TAVERN_TURN_MAX_PORT (UDP) in the firewall, and publish them in compose",
            )
        )
    else:
        report(Finding(Level.OK, subject, f"packets from here reach {_listed(reached)}"))


async def _seen_address(sock: trio.socket.SocketType, server: SocketAddress) -> SocketAddress:
    """The address that the server sees the socket at. Raises NoAnswer."""
    for _ in range(TRIES):
        transaction_id = os.urandom(12)
        await sock.sendto(encode(Method.BINDING, MessageClass.REQUEST, transaction_id), server)
        with trio.move_on_after(DATA_TIMEOUT_S):
            answer = parse(bytes(await sock.recv(_MAX_DATAGRAM)))
            value = answer.get(AttributeType.XOR_MAPPED_ADDRESS)
            if value is not None and answer.transaction_id == transaction_id:
                host, port = decode_xor_address(value, transaction_id)
                return str(host), port
    raise NoAnswer("STUN over UDP is not answered")


async def _announce(address: SocketAddress, sender: Person, receiver: Person) -> None:
    """As a browser names its candidates: the relay lets nobody in who was not named in the call."""
    candidate = f"candidate:1 1 udp 1 {address[0]} {address[1]} typ srflx"
    await sender.client.send_ice_candidate(candidate, receiver.peer_id)
    with trio.move_on_after(_SIGNALING_TIMEOUT_S):
        while not isinstance(await receiver.client.next_event(), ReceivedIceCandidate):
            pass


async def _arrives(sock: trio.socket.SocketType, client: TurnClient, relayed: SocketAddress) -> bool:
    """Whether a connectivity check from the socket comes out of the relay at the client."""
    for _ in range(TRIES):
        check = encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12))
        await sock.sendto(check, relayed)
        with trio.move_on_after(DATA_TIMEOUT_S):
            while True:
                if (await client.receive())[0] == check:
                    return True
    return False


def _listed(ports: set[int]) -> str:
    return f"port {', '.join(map(str, sorted(ports)))}"
