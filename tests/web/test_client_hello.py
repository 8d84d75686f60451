"""What a client asks for before it is answered: real hellos, and bytes that only look like one."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tavern.web.client_hello import MAX_RECORD_BYTES, RECORD_HEADER_BYTES, alpn_protocols, record_bytes


def hello(*protocols: str, server_name: str = "tavern.example.com") -> bytes:
    """OpenSSL's own first message."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("protocols", [(), ("acme-tls/1",), ("h2", "http/1.1"), ("x" * 255, "stun.turn")])
def test_the_protocols_of_a_real_hello(protocols: tuple[str, ...]) -> None:
    assert alpn_protocols(hello(*protocols)) == tuple(name.encode() for name in protocols)


def test_the_length_of_a_record_is_in_its_header() -> None:
    whole = hello("acme-tls/1")
    assert record_bytes(whole[:RECORD_HEADER_BYTES]) == len(whole)
    assert record_bytes(b"\x16\x03\x01\xff\xff") == MAX_RECORD_BYTES
    assert record_bytes(b"") == RECORD_HEADER_BYTES


def test_a_hello_that_is_cut_off_offers_nothing_wrong() -> None:
    whole = hello("acme-tls/1")
    for end in range(len(whole)):
        assert alpn_protocols(whole[:end]) in {(), (b"acme-tls/1",)}


def test_other_messages_and_empty_names_offer_nothing() -> None:
    whole = hello("acme-tls/1")
    assert alpn_protocols(whole[:5] + b"\x02" + whole[6:]) == ()
    assert alpn_protocols(whole.replace(b"\x00\x0b\x0aacme-tls/1", b"\x00\x0b" + b"\0" * 11)) == ()


@given(st.binary(max_size=600), st.integers(0, 600))
@example(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", 0)
def test_any_bytes_are_read_to_an_end(noise: bytes, at: int) -> None:
    whole = hello("h2")
    for data in (noise, whole[:at] + noise, whole[:at] + noise + whole[at + len(noise) :]):
        for name in alpn_protocols(data):
            assert 0 < len(name) < 256
