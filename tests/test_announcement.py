"""What `tavern serve` says at start of the relay's ports, whatever is set."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import pytest

from tavern.announcement import announcement
from tavern.config import load_settings
from tavern.listening import Listening
from tavern.relay.data_paths import ChosenDataPath
from tavern.startup import Decisions

if TYPE_CHECKING:
    from tavern.relay.sockets import Listener


NATIVE = ChosenDataPath("native")


class Listens:
    """As much of a listener as is told."""

    address = ("0.0.0.0", 3478)

    @property
    def socket(self) -> Listens:
        return self

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", 3001


def said(data_path: ChosenDataPath = NATIVE, **variables: str) -> str:
    settings = load_settings(variables)
    decisions = Decisions(
        trusted_proxies=tuple(proxy for proxy in settings.trusted_proxies if proxy != "gateway"),
        turn_secrets=("secret",),
        server_secret=b"secret",
        static_credentials=False,
        db_path=None,
        control_path=None,
        advertised_addresses=(ip_address("9.9.9.9"),),
        certificate=None,
        certificate_files=None,
        max_connections=16,
        max_allocations=16,
        warnings=(),
    )
    listening = Listening([cast("Listener", Listens())], [cast("Any", Listens())], [], [], [], None)
    return "\n".join(announcement(settings, decisions, listening, data_path))


@pytest.mark.parametrize(
    ("mode", "ports", "told"),
    [
        ("auto", ("50000", "50099"), "50000-50099 (UDP); 50075-50099 are shared once the others are taken\n"),
        ("always", ("50000", "50007"), "50000-50007 (UDP); 50000-50007 are shared by all\n"),
        ("always", ("50000", "59999"), "50000-59999 (UDP); 59936-59999 are shared by all\n"),
        ("never", ("50000", "50099"), "50000-50099 (UDP)\n"),
    ],
)
def test_it_says_which_relay_ports_are_shared(mode: str, ports: tuple[str, str], told: str) -> None:
    first, last = ports
    lines = said(TAVERN_TURN_SHARED_PORTS=mode, TAVERN_TURN_MIN_PORT=first, TAVERN_TURN_MAX_PORT=last)
    assert told in lines
    assert "fewer than" not in lines


@pytest.mark.parametrize(("mode", "last", "warns"), [("always", "50002", True), ("always", "50003", False)])
def test_it_warns_of_too_few_shared_ports(mode: str, last: str, warns: bool) -> None:
    lines = said(TAVERN_TURN_SHARED_PORTS=mode, TAVERN_TURN_MIN_PORT="50000", TAVERN_TURN_MAX_PORT=last)
    assert (f"ports 50000-{last}: fewer than 4" in lines) == warns


def test_it_says_what_moves_the_packets() -> None:
    assert "  relayed by       compiled code\n" in said()
    reason = "there is no compiled data path: it was not compiled when Tavern was installed"
    assert f"  relayed by       Python ({reason})\n" in said(ChosenDataPath("python", reason))
