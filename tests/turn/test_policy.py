"""Where the relay may send: the deny list, addresses inside addresses, our own, the operator's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.addresses import IPAddress
from tavern.turn.policy import PeerPolicy, Verdict, embedded_addresses

ADVERTISED = (ip_address("198.51.100.1"), ip_address("2001:db8::1"))
POLICY = PeerPolicy(
    advertised_addresses=frozenset(ADVERTISED),
    local_addresses=frozenset({ip_address("9.9.9.200"), ip_address("2620:fe::200")}),
    is_local=lambda _: False,
)


def judge(text: str, policy: PeerPolicy = POLICY) -> Verdict:
    return policy.judge(ip_address(text), others_live=True)


DENIED_IPV4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.0",
    "192.0.2.255",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.9",
    "203.0.113.0",
    "203.0.113.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "9.9.9.200",
]
ALLOWED_IPV4 = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
]


@pytest.mark.clause("Policy: all that is not global unicast is denied (403)")
@pytest.mark.parametrize("peer", DENIED_IPV4)
def test_denied_ipv4(peer: str) -> None:
    assert judge(peer) is Verdict.DENIED


@pytest.mark.clause("Policy: global unicast is allowed")
@pytest.mark.parametrize("peer", ALLOWED_IPV4)
def test_allowed_ipv4(peer: str) -> None:
    assert judge(peer) is Verdict.ALLOWED


@pytest.mark.clause("Policy: all that is not global unicast is denied (403)")
@pytest.mark.parametrize(
    "peer",
    [
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "fc00::1",
        "fdff::1",
        "ff02::1",
        "64:ff9b:1::1",
        "2620:fe::200",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::",
        "2001:db8:ffff::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "5f00::1",
    ],
)
def test_denied_ipv6(peer: str) -> None:
    assert judge(peer) is Verdict.DENIED


@pytest.mark.clause("Policy: global unicast is allowed")
@pytest.mark.parametrize(
    "peer", ["2a00::1", "2606:4700::1111", "2001:200::1", "2001:db7::1", "2001:db9::1", "3fff:1000::1"]
)
def test_allowed_ipv6(peer: str) -> None:
    assert judge(peer) is Verdict.ALLOWED


def disguises(inner: IPv4Address) -> list[IPv6Address]:
    number = int(inner)
    return [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(number),  # IPv4-compatible
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
        IPv6Address(0x20010000 << 96 | int(IPv4Address("1.1.1.1")) << 64 | number ^ 0xFFFFFFFF),  # Teredo's client
        IPv6Address(0x20010000 << 96 | number << 64 | int(IPv4Address("1.1.1.1")) ^ 0xFFFFFFFF),  # Teredo's server
        IPv6Address(0x2A00 << 112 | 0x5EFE << 32 | number),  # ISATAP
        IPv6Address(0x2A00 << 112 | 0x02005EFE << 32 | number),
    ]


@pytest.mark.clause("Policy: IPv4-mapped, -compatible, NAT64, 6to4 and Teredo are judged as the IPv4 inside")
@pytest.mark.parametrize("inner", [*DENIED_IPV4, "198.51.100.1"])
def test_ipv4_inside_ipv6_is_judged_as_ipv4(inner: str) -> None:
    for disguised in disguises(IPv4Address(inner)):
        assert POLICY.judge(disguised, others_live=True) is Verdict.DENIED, disguised


@pytest.mark.clause("Policy: IPv4-mapped, -compatible, NAT64, 6to4 and Teredo are judged as the IPv4 inside")
@given(st.ip_addresses(v=4), st.booleans())
def test_no_disguise_allows_what_is_denied(inner: IPv4Address, others_live: bool) -> None:
    plain = POLICY.judge(inner, others_live=others_live)
    for disguised in disguises(inner):
        verdict = POLICY.judge(disguised, others_live=others_live)
        assert (verdict is Verdict.ALLOWED) == (plain is Verdict.ALLOWED), disguised


@pytest.mark.clause("Policy: our own relayed addresses are allowed while they live")
def test_our_relayed_address_only_while_others_live() -> None:
    for address in ADVERTISED:
        assert POLICY.judge(address, others_live=True) is Verdict.RELAYED_ONLY
        assert POLICY.judge(address, others_live=False) is Verdict.DENIED


def allowing(*ranges: str, kernels_own: tuple[str, ...] = ()) -> PeerPolicy:
    own = set(map(ip_address, kernels_own))
    networks = tuple(map(ip_network, ranges))
    return attrs.evolve(POLICY, allow_peers=networks, is_local=own.__contains__)


@pytest.mark.clause("Policy: the operator's allow list wins over every denial above")
def test_the_operators_ranges_win_over_every_denial() -> None:
    policy = allowing("10.1.0.0/16", "127.0.0.0/8", "fd00::/8", "198.51.100.1/32", "9.9.9.200/32", "2001:db8::/32")
    for peer in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3", "2001:db8::9"):
        assert judge(peer, policy) is Verdict.ALLOWED, peer
    for peer in ("198.51.100.1", "9.9.9.200", "2001:db8::1", "::ffff:9.9.9.200"):
        assert judge(peer, policy) is Verdict.ALLOWED_OWN, peer
    for peer in ("10.2.0.1", "192.168.0.1", "::1", "::ffff:10.2.0.1", "2002:0a02:0001::"):
        assert judge(peer, policy) is Verdict.DENIED, peer


def test_the_loopback_address_of_ipv6_is_itself_and_no_ipv4_address_inside() -> None:
    assert judge("::1", allowing("::1/128")) is Verdict.ALLOWED
    assert judge("::1", allowing("::1/128", kernels_own=("::1",))) is Verdict.ALLOWED_OWN
    assert judge("::1", allowing("0.0.0.0/0")) is Verdict.DENIED
    assert judge("::", allowing("0.0.0.0/0")) is Verdict.DENIED


@pytest.mark.clause("Policy: IPv4-mapped, -compatible, NAT64, 6to4 and Teredo are judged as the IPv4 inside")
@pytest.mark.parametrize("inner", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "9.9.9.200"])
def test_the_operators_range_around_an_embedding_does_not_open_what_is_inside(inner: str) -> None:
    everything_ipv6 = allowing("::/0")
    for disguised in disguises(IPv4Address(inner)):
        assert everything_ipv6.judge(disguised, others_live=True) is Verdict.DENIED, disguised


@pytest.mark.clause("Policy: IPv4-mapped, -compatible, NAT64, 6to4 and Teredo are judged as the IPv4 inside")
def test_every_address_inside_another_has_to_be_allowed() -> None:
    policy = allowing("10.1.0.0/16")
    for inner in ("10.1.2.3", "1.1.1.1"):
        for disguised in disguises(IPv4Address(inner)):
            assert policy.judge(disguised, others_live=True) is Verdict.ALLOWED, disguised
    half = IPv6Address(
        0x20010000 << 96 | int(IPv4Address("10.1.2.3")) << 64 | int(IPv4Address("10.2.0.1")) ^ 0xFFFFFFFF
    )
    assert policy.judge(half, others_live=True) is Verdict.DENIED
    outer = IPv6Address(0xFE80 << 112 | 0x5EFE << 32 | int(IPv4Address("10.1.2.3")))
    assert policy.judge(outer, others_live=True) is Verdict.DENIED


@pytest.mark.clause("Policy: every address of this machine is denied")
@pytest.mark.parametrize("peer", ["9.8.7.6", "2a00::", "::ffff:9.8.7.6", "64:ff9b::908:706"])
def test_what_the_kernel_calls_its_own_is_denied_although_no_interface_lists_it(peer: str) -> None:
    assert judge(peer) is Verdict.ALLOWED
    policy = allowing(kernels_own=("9.8.7.6", "2a00::"))
    assert judge(peer, policy) is Verdict.DENIED
    assert judge("9.8.7.7", policy) is Verdict.ALLOWED


@pytest.mark.clause("Policy: the operator's allow list wins over every denial above")
def test_what_the_kernel_calls_its_own_may_be_allowed_by_the_operator() -> None:
    policy = allowing("9.8.7.0/24", kernels_own=("9.8.7.6", "9.8.6.5"))
    assert judge("9.8.7.6", policy) is Verdict.ALLOWED_OWN
    assert judge("9.8.7.7", policy) is Verdict.ALLOWED
    both_own = 0x20010000 << 96 | int(IPv4Address("9.8.7.6")) << 64 | int(IPv4Address("9.8.6.5")) ^ 0xFFFFFFFF
    assert policy.judge(IPv6Address(both_own), others_live=True) is Verdict.DENIED


@pytest.mark.parametrize("peer", [*DENIED_IPV4[:-1], "::1", "2001:db8::9", "198.51.100.1", "::ffff:10.0.0.1"])
def test_the_kernel_is_not_asked_about_what_is_decided_without_it(peer: str) -> None:
    asked: list[IPAddress] = []

    def is_local(address: IPAddress) -> bool:
        asked.append(address)
        return False

    judge(peer, attrs.evolve(POLICY, is_local=is_local))
    assert not asked


@given(st.ip_addresses())
def test_every_address_ends_somewhere(address: IPAddress) -> None:
    assert embedded_addresses(address)
    assert judge(str(address)) in Verdict
