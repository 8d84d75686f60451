"""What a setting's text may be: each parser returns the value, or raises ValueError that says what is allowed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, Literal

from tavern.addresses import IPAddress, parse_address

IPNetwork = IPv4Network | IPv6Network

Gateway = Literal["gateway"]
GATEWAY: Final = "gateway"
"""The machine's default gateway, whichever that is: in a container, where a proxy on its host comes from."""

Parser = Callable[[str], Any]


def integer(minimum: int, maximum: int) -> Parser:
    def parse(text: str) -> int:
        # int() also takes "1_000", " 7" and other alphabets' digits: in a settings file those are typing errors.
        if not re.fullmatch(r"-?[0-9]{1,11}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def milliseconds(minimum: int, maximum: int) -> Parser:
    whole = integer(minimum, maximum)

    def parse(text: str) -> float:
        try:
            return float(whole(text)) / 1000
        except ValueError:
            raise ValueError(f"must be milliseconds, a whole number from {minimum} to {maximum}") from None

    return parse


def one_of(*choices: str) -> Parser:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return parse


def on_off(text: str) -> bool:
    if text.lower() not in {"on", "off", "1", "0"}:
        raise ValueError("must be on or off")
    return text.lower() in {"on", "1"}


def _names_no_machine(address: IPAddress) -> bool:
    """Whether it stands for many machines: nobody has it, and nobody can be sent there."""
    return address.is_multicast or str(address) == "255.255.255.255"


def listen_host(text: str) -> tuple[str, ...]:
    allowed = "must be one IP address to listen on, or empty for all interfaces"
    try:
        address = parse_address(text)
    except ValueError:
        raise ValueError(allowed) from None
    if _names_no_machine(address):
        raise ValueError(f"{allowed}; no machine has this one")
    return (str(address),)


def domain(text: str) -> str:
    name = text.lower().removesuffix(".")
    try:
        address = parse_address(name)
    except ValueError:
        return _host_name(name)
    if address.is_unspecified or _names_no_machine(address):
        raise ValueError("must be a host name, or an address that people can reach this server at")
    return str(address)


def _host_name(name: str) -> str:
    label = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
    if len(name) > 253 or not re.fullmatch(rf"{label}(\.{label})*", name):
        raise ValueError("must be a host name such as tavern.example.com (no https://, no port, no path)")
    return name


def networks(text: str) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"must be address ranges such as 192.168.1.0/24, separated by commas ({error})") from None


def proxies(text: str) -> tuple[IPNetwork | Gateway, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(GATEWAY if part == GATEWAY else ip_network(part) for part in parts)
    except ValueError as error:
        raise ValueError(
            f"must be address ranges such as 192.168.1.0/24, or the word gateway, separated by commas ({error})"
        ) from None


def external_addresses(text: str) -> tuple[IPAddress, ...]:
    allowed = "must be one IPv4 address, one IPv6 address, or one of each separated by a comma"
    try:
        addresses = tuple(parse_address(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(allowed) from None
    if len({address.version for address in addresses}) != len(addresses) or not addresses:
        raise ValueError(allowed)
    if any(address.is_unspecified or _names_no_machine(address) for address in addresses):
        raise ValueError(f"{allowed}, which clients can send to")
    return addresses


def ice_urls(text: str) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    for url in urls:
        if not re.fullmatch(r"(stuns?:[^\s?/@]+|turns?:[^\s?/@]+(\?transport=(udp|tcp))?)", url):
            raise ValueError(
                "must be URLs such as stun:host:3478 or turn:host:3478?transport=udp, separated by commas "
                f"({url!r} is not)"
            )
    return urls


def secret(text: str) -> str:
    if len(text) > 256 or not text.isprintable():  # a HMAC key: longer only hides a pasted file
        raise ValueError("must be at most 256 printable characters")
    return text


def invites(text: str) -> tuple[str, ...]:
    given = tuple(part.strip() for part in text.split(",") if part.strip())
    # It stands in URLs, and is all that keeps strangers out.
    if not 1 <= len(given) <= 2 or not all(re.fullmatch(r"[A-Za-z0-9._~-]{16,128}", invite) for invite in given):
        raise ValueError("must be one or two invites of 16 to 128 letters, digits or . _ ~ - separated by a comma")
    return given


def public_keys(text: str) -> frozenset[str]:
    keys = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not keys or not all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys):
        raise ValueError("must be public keys of 64 lower-case hexadecimal digits, separated by commas")
    return keys


def origins(text: str) -> tuple[str, ...]:
    given = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if given == ("*",):
        return ()
    if not given or not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@,]+", origin) for origin in given):
        raise ValueError("must be * or origins such as https://tavern.example.com, separated by commas")
    return given


def email(text: str) -> str:
    if len(text) > 254 or not re.fullmatch(r"[^\s@,]+@[^\s@,]+\.[^\s@,]+", text):
        raise ValueError("must be one e-mail address")
    return text


def https_url(text: str) -> str:
    if len(text) > 500 or not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[!-~]*", text):
        raise ValueError("must be an https:// URL with a path")
    return text


def path_or_off(text: str) -> Path | Literal["off"]:
    return "off" if text == "off" else path(text)


def path(text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("must be the path of a file; whose home directory ~ stands for is unknown here") from None
    if "\0" in text or not path.name:
        raise ValueError("must be the path of a file")
    return path
