"""A running server seen from outside, as its users see it: page, signaling, credentials, relay."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit
from uuid import uuid4

import trio
from trio_websocket import HandshakeError

from tavern.addresses import IPAddress, without_zone
from tavern.client import Client, ConnectionLost, IceServers, Keypair, ServerError, WrongServer, open_client
from tavern.client.connection import is_called
from tavern.doctor.findings import Finding, Level
from tavern.doctor.relay import Person, examine_relay, resolve

HTTP_TIMEOUT_S = 5.0
MAX_CLOCK_SKEW_S = 60.0
FEW_DAYS = 14
"""Left of a certificate: who renews by himself does so a month before its end."""

_DAY_S = 86_400
_MAX_ANSWER = 65_536
_CREDENTIAL_LIFETIME_S = 600

Report = Callable[[Finding], None]


async def examine_server(url: str, invite: str | None, report: Report) -> None:
    """Looks at the server at `url` (http or https), and reports one thing after the other.

    It makes no tavern and leaves nothing behind: its two clients meet in a room that is only a name.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    if not await _examine_name(host, port, report):
        return
    ssl_context = ssl.create_default_context()
    if secure:
        await _examine_certificate(host, port, report)
    elif host not in ("localhost", "127.0.0.1", "::1"):
        report(
            Finding(
                Level.WARNING,
                "https",
                f"{url} is plain http",
                "browsers give a microphone only to https pages: nobody can talk from the page",
                "set TAVERN_TLS_CERT and TAVERN_TLS_KEY, or put a proxy with https in front",
            )
        )
    if not await _examine_health(url, report):
        return
    await _examine_client_address(url, report)
    await _examine_signaling(f"{'wss' if secure else 'ws'}://{parts.netloc}/", invite, report, ssl_context)


async def _examine_name(host: str, port: int, report: Report) -> bool:
    addresses = await resolve(host, port)
    if not addresses:
        report(
            Finding(
                Level.PROBLEM,
                "name",
                f"{host} does not resolve",
                "nobody finds the server",
                "add an A record (and AAAA for IPv6) for it, or mend its spelling",
            )
        )
        return False
    report(Finding(Level.OK, "name", f"{host} is {', '.join(address for address, _ in addresses)}"))
    return True


async def _examine_certificate(host: str, port: int, report: Report) -> None:
    def look() -> float:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, port, timeout=HTTP_TIMEOUT_S, context=context)
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            certificate = connection.sock.getpeercert() or {}
            return ssl.cert_time_to_seconds(str(certificate["notAfter"]))
        finally:
            connection.close()

    subject = "certificate"
    try:
        ends_at = await trio.to_thread.run_sync(look)
    except ssl.SSLCertVerificationError as error:
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"browsers refuse it: {error.verify_message}",
                "they open neither the page nor the WebSocket",
                f"get one for {host} (certbot certonly -d {host}), and name its fullchain.pem in TAVERN_TLS_CERT",
            )
        )
        return
    except OSError as error:
        report(Finding(Level.PROBLEM, subject, f"no TLS on port {port}: {error}", "the page cannot be opened", ""))
        return
    days = (ends_at - time.time()) / _DAY_S
    ends_on = datetime.fromtimestamp(ends_at, UTC).date()
    if days < FEW_DAYS:
        report(
            Finding(
                Level.WARNING,
                subject,
                f"it ends on {ends_on}, in {days:.0f} days",
                "from then on browsers open nothing",
                "renew it now (certbot renew); Tavern reads the new files by itself",
            )
        )
    else:
        report(Finding(Level.OK, subject, f"for {host}, until {ends_on}"))


async def _examine_health(url: str, report: Report) -> bool:
    def ask() -> tuple[int, object]:
        request = urllib.request.Request(url.rstrip("/") + "/health")  # noqa: S310 - the caller checked the scheme
        try:
            with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:  # noqa: S310
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, None

    subject = "health"
    try:
        status, answer = await trio.to_thread.run_sync(ask)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"{url} does not answer: {reason}",
                "nobody can connect",
                "see that the server runs (docker compose ps, docker compose logs signaling) and its port is open",
            )
        )
        return False
    if status == http.client.OK and isinstance(answer, dict) and answer.get("status") == "ok":
        report(Finding(Level.OK, subject, f"it answers, and has {answer.get('taverns')} taverns"))
        return True
    report(
        Finding(
            Level.PROBLEM,
            subject,
            f"/health answers {status}",
            "the server is draining, or something else answers there",
            "start the server anew, and see that the proxy passes all paths on to it",
        )
    )
    return False


async def _examine_client_address(url: str, report: Report) -> None:
    """Whom the server's limits count us as. Says nothing of servers that do not tell."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ask() -> tuple[str, object]:
        connection = kind(parts.netloc, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request("GET", "/ready")
            own = str(connection.sock.getsockname()[0])
            answer = json.loads(connection.getresponse().read(_MAX_ANSWER))
            return own, answer.get("client") if isinstance(answer, dict) else None
        finally:
            connection.close()

    try:
        own, counted = await trio.to_thread.run_sync(ask)
        found = judge_client_address(ip_address(without_zone(own)), ip_address(str(counted)))
    except (OSError, ValueError, http.client.HTTPException):
        return
    report(found)


def judge_client_address(own: IPAddress, counted: IPAddress) -> Finding:
    """`own` is the address that we called from, `counted` the one that the server saw there."""
    subject = "client address"
    if counted == own or counted.is_global:
        return Finding(Level.OK, subject, f"the server counts you as {counted}")
    what = f"the server counts you as {counted}, and you come from {own}"
    if own.is_loopback:
        return Finding(Level.NOTE, subject, f"{what}: on the server itself that may be so, elsewhere it is a proxy's")
    return Finding(
        Level.WARNING,
        subject,
        what,
        "limits and bans take everybody who comes through that address for one person",
        f"TAVERN_TRUSTED_PROXIES={counted}; in Docker: gateway for a proxy on its host, else compose.host.yaml",
    )


async def _examine_signaling(ws_url: str, invite: str | None, report: Report, ssl_context: ssl.SSLContext) -> None:
    subject = "WebSocket"
    try:
        async with open_client(ws_url, ssl_context=ssl_context if ws_url.startswith("wss") else None) as one:
            report(Finding(Level.OK, subject, "it opens, and answers"))
            async with open_client(ws_url, ssl_context=ssl_context if ws_url.startswith("wss") else None) as other:
                await _examine_call(one, other, urlsplit(ws_url).hostname or "", invite, report, ssl_context)
    except HandshakeError as error:
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"the upgrade is refused: {error}",
                "the page loads, and says that it cannot connect",
                "let the proxy pass it on: proxy_http_version 1.1, and the headers Upgrade and Connection",
            )
        )
    except (OSError, trio.TooSlowError, ConnectionLost) as error:
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"the connection is lost: {str(error) or 'no answer in time'}",
                "people are thrown out again and again",
                "raise the proxy's proxy_read_timeout, and look at the server's log",
            )
        )


async def _examine_call(
    one: Client, other: Client, host: str, invite: str | None, report: Report, ssl_context: ssl.SSLContext
) -> None:
    room = f"doctor-{uuid4()}"
    try:
        alice = await _enter(one, invite, room, host, report)
        bob = await _enter(other, invite, room, "", report)
    except WrongServer as error:
        report(Finding(Level.PROBLEM, "server's name", str(error), "nobody can prove who he is, and must here"))
        return
    except ServerError as error:
        mend = "give its invite: tavern doctor --invite WORD URL" if (error.code or "").startswith("invite") else ""
        report(Finding(Level.PROBLEM, "call", f"two clients cannot meet: {error}", "people cannot either", mend))
        return
    listed = await other.join_room(room)
    [alice.peer_id] = [peer.peerId for peer in listed.peers]
    report(Finding(Level.OK, "call", "two clients meet in a room"))
    _judge_credentials(alice.servers, report)
    await examine_relay(alice, bob, report, ssl_context)


async def _enter(client: Client, invite: str | None, room: str, host: str, report: Report) -> Person:
    welcome = await client.hello(invite)
    if host and not is_called(welcome.server, host):
        report(
            Finding(
                Level.WARNING,
                "server's name",
                f"it calls itself {welcome.server}, and was called {host}",
                "people who prove who they are are refused by their clients: a server in between could use the proof",
                f"set TAVERN_DOMAIN={host}",
            )
        )
    if welcome.identityRequired:
        await client.prove_identity(Keypair.generate(), invite)
    await client.join_room(room)
    return Person(client, await client.ice_servers())


def _judge_credentials(servers: IceServers, report: Report) -> None:
    turn = [server for server in servers.iceServers if any(url.startswith("turn") for url in server.urls)]
    if not turn or not all(server.username and server.credential for server in turn):
        report(
            Finding(
                Level.PROBLEM,
                "credentials",
                "the server hands out no TURN server with a credential",
                "people behind strict networks cannot be heard",
                "unset TAVERN_ICE_URLS, or name TURN servers in it",
            )
        )
        return
    ends_at = datetime.fromisoformat(servers.expiresAt).timestamp()
    skew_s = ends_at - time.time() - _CREDENTIAL_LIFETIME_S
    if abs(skew_s) > MAX_CLOCK_SKEW_S:
        report(
            Finding(
                Level.WARNING,
                "clock",
                f"the server's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's",
                "credentials end too early, or certificates seem to be of another day",
                "keep both in time: timedatectl set-ntp true",
            )
        )
    else:
        report(Finding(Level.OK, "credentials", f"{len(turn)} TURN servers, until {servers.expiresAt}"))
