"""The lines that `tavern serve` says at start: what is open where, and what is unsafe in the settings."""

from __future__ import annotations

from collections.abc import Iterator

from tavern.acme.files import CertificateFiles
from tavern.addresses import IPAddress, SocketAddress, format_socket_address
from tavern.config import DEV_SECRET, Settings
from tavern.listening import Listening, addresses
from tavern.relay.data_paths import ChosenDataPath
from tavern.startup import Decisions, running_as_root, shared_relay_ports

_FEW_SHARED_PORTS = 4  # one for each way to the relay, and one more
_ANYWHERE = ("0.0.0.0", "::")


def announcement(
    settings: Settings, decisions: Decisions, listening: Listening, data_path: ChosenDataPath
) -> Iterator[str]:
    """Plain lines, in the order in which they matter."""
    http = addresses(listening.http)
    yield f"Tavern is open at {_page_url(settings, http)}"
    for url in _urls_elsewhere(settings, decisions, http):
        yield f"  from elsewhere   {url}"
    yield f"  listening        {_where(http)} (TCP: page, signaling, TURN, /health)"
    yield f"  STUN and TURN    {_where(tuple(listener.address for listener in listening.udp))} (UDP, TCP)"
    if listening.turn_tls:
        yield f"  TURN over TLS    {_where(addresses(listening.turn_tls))} (TCP)"
    if listening.redirect:
        yield f"  plain http       {_where(addresses(listening.redirect))} (TCP: sent to https)"
    if decisions.certificate_files is not None:
        yield f"  certificate      {_certificate(decisions.certificate_files)}"
    yield f"  relay ports      {_relay_ports(settings)}"
    yield f"  relay address    {', '.join(map(str, decisions.advertised_addresses))}"
    yield f"  relayed by       {'compiled code' if data_path.name == 'native' else f'Python ({data_path.reason})'}"
    yield f"  taverns kept in  {decisions.db_path or 'memory'}"
    for warning in _warnings(settings, decisions):
        yield f"  warning: {warning}"


def _certificate(files: CertificateFiles) -> str:
    if files.renewal_due_at() is None:
        return f"being asked for at {files.directory.name}; until it comes browsers warn of this server"
    return f"{files.certificate}, renewed by itself"


def _relay_ports(settings: Settings) -> str:
    ports = f"{settings.turn_min_port}-{settings.turn_max_port} (UDP)"
    shared = shared_relay_ports(settings)
    if not shared:
        return ports
    when = "by all" if settings.turn_shared_ports == "always" else "once the others are taken"
    return f"{ports}; {shared[0]}-{shared[-1]} are shared {when}"


def _page_url(settings: Settings, http: tuple[SocketAddress, ...]) -> str:
    scheme = "https" if settings.tls else "http"
    if not settings.is_local:
        return _url(scheme, settings.domain, http[0][1])
    host = http[0][0]
    return _url(scheme, "localhost" if host in (*_ANYWHERE, "127.0.0.1", "::1") else host, http[0][1])


def _urls_elsewhere(settings: Settings, decisions: Decisions, http: tuple[SocketAddress, ...]) -> Iterator[str]:
    """While there is no domain: the addresses by which other machines may find this one."""
    if settings.is_local:
        for address in decisions.advertised_addresses:
            if not address.is_loopback and any(host in (*_ANYWHERE, str(address)) for host, _ in http):
                yield _url("https" if settings.tls else "http", str(address), http[0][1])


def _url(scheme: str, host: str, port: int) -> str:
    default = {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host if port == default else format_socket_address(host, port)}/"


def _where(addresses: tuple[SocketAddress, ...]) -> str:
    return ", ".join(format_socket_address(host, port) for host, port in addresses)


def _warnings(settings: Settings, decisions: Decisions) -> Iterator[str]:
    yield from decisions.warnings
    if not settings.tls:
        yield (
            "browsers give a microphone only to https pages and to localhost: for other machines set TAVERN_ACME=on, "
            "or TAVERN_TLS_CERT and TAVERN_TLS_KEY, or put a proxy with https in front"
        )
    if settings.turn_secret == DEV_SECRET:
        yield (
            "TAVERN_TURN_SECRET is the development secret that everybody knows: it serves old clients only; unset "
            "it, or set your own"
        )
    elif settings.turn_secret is not None and len(settings.turn_secret) < 16:
        yield "TAVERN_TURN_SECRET is short and may be guessed: 16 characters or more, or unset it and one is made"
    if not settings.is_local and all(_is_private(address) for address in decisions.advertised_addresses):
        yield (
            f"the relay's address {decisions.advertised_addresses[0]} is a private one: people elsewhere cannot reach "
            "it; set TAVERN_EXTERNAL_IP to the public address"
        )
    shared = shared_relay_ports(settings)
    if 0 < len(shared) < _FEW_SHARED_PORTS and settings.turn_shared_ports == "always":
        yield (
            f"TAVERN_TURN_SHARED_PORTS=always with ports {shared[0]}-{shared[-1]}: fewer than {_FEW_SHARED_PORTS} "
            "do not always tell apart what one browser allocates over UDP, TCP and TLS; widen TAVERN_TURN_MAX_PORT"
        )
    for network in settings.turn_allow_peers:
        if not network.is_global:
            yield f"TAVERN_TURN_ALLOW_PEERS lets the relay reach {network}, where somebody in the call says he is there"
    for network in decisions.trusted_proxies:
        if network.prefixlen == 0:
            yield f"TAVERN_TRUSTED_PROXIES={network} believes whatever address a client claims; limits are then useless"
    if decisions.db_path is None:
        yield "TAVERN_STORE=memory: taverns are gone when the server stops"
        if settings.turn_monthly_gb:
            yield "TAVERN_STORE=memory: each start begins TAVERN_TURN_MONTHLY_GB anew, since nothing is kept"
    if running_as_root():
        yield "running as root: nothing here needs it"


def _is_private(address: IPAddress) -> bool:
    return not address.is_global
