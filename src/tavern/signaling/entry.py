"""Who may use the server at all, and who has proven who it is: one connection's side of it. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import parse_qs

import attrs

from tavern.signaling import messages
from tavern.signaling.messages import SignalingError
from tavern.signaling.proofs import Challenge, is_verifiable_key, proof_statement, verify_proof
from tavern.signaling.requests import Hello, Message, ProveIdentity, Resume
from tavern.signaling.rooms import Peer

ENTRY_S = 10.0
"""So long a connection may take to show an invite or prove its identity, where the server asks for it."""

MAX_QUERY_LENGTH = 1024
"""Of the part of the URL that an invite is looked for in."""

CreateRule = Literal["anyone", "verified", "listed"]


@attrs.frozen(kw_only=True)
class Rules:
    """Whose server it is."""

    server_name: str = "localhost"
    """What identities are proven to; the name that people reach this server by."""
    invites: tuple[str, ...] = attrs.field(default=(), repr=False)
    """Any of them opens the server; none: it is open."""
    require_identity: bool = False
    create: CreateRule = "anyone"
    create_keys: frozenset[str] = frozenset()


@attrs.define(eq=False)
class Entry:
    """What one connection has shown so far."""

    rules: Rules
    invited: bool = attrs.field(init=False)
    _challenge: Challenge | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.invited = not self.rules.invites

    def show_query(self, query: str) -> None:
        """An invite in the URL: old clients can be given one there. One that is wrong is like none."""
        if self.invited or not 0 < len(query) <= MAX_QUERY_LENGTH:
            return
        given = parse_qs(query, max_num_fields=16).get("invite", []) if query.count("&") < 16 else []
        self.invited = any(self._is_invite(invite) for invite in given)

    def is_admitted(self, peer: Peer) -> bool:
        """Whether the peer may use the server."""
        return self.invited and (peer.verified or not self.rules.require_identity)

    def check(self, peer: Peer, message: Message) -> None:
        """Raises SignalingError if this message is not for a peer that has shown so little."""
        if self.is_admitted(peer) or isinstance(message, Hello | ProveIdentity | Resume):
            return
        if not self.invited:
            raise messages.invite_required()
        raise messages.identity_required()

    def check_create(self, peer: Peer) -> None:
        """Raises SignalingError if this peer may make no taverns."""
        rules = self.rules
        if rules.create != "anyone" and not peer.verified:
            raise SignalingError("create-not-permitted", "Only people with a proven identity make taverns here")
        if rules.create == "listed" and peer.proven_key not in rules.create_keys:
            raise SignalingError("create-not-permitted", "Only people whom the operator has listed make taverns here")

    def hello(self, peer: Peer, message: Hello, now: float, random_bytes: bytes) -> dict[str, Any]:
        """`welcome`, with a nonce for a proof within a minute. Raises SignalingError for an invite that is wrong."""
        if message.invite is not None and not self.invited:
            if not self._is_invite(message.invite):
                raise messages.invite_invalid()
            self.invited = True
        if self._challenge is None:
            self._challenge = Challenge()
        return {
            "type": "welcome",
            "server": self.rules.server_name,
            "connection": peer.peer_id,
            "nonce": self._challenge.issue(now, random_bytes),
            "verified": peer.verified,
            "identityRequired": self.rules.require_identity,
            "inviteRequired": not self.invited,
            "mayCreate": self.rules.create,
        }

    def check_proof(self, peer: Peer, message: ProveIdentity, now: float) -> None:
        """Raises SignalingError unless the message proves that its sender holds the key. The nonce is used up."""
        nonce = self._challenge.take(now) if self._challenge else None
        if nonce is None:
            raise SignalingError("proof-invalid", "There is no nonce to sign: say hello first")
        if not is_verifiable_key(message.publicKeyHex):
            raise SignalingError("proof-invalid", "A key is 64 lower-case hexadecimal digits", field="publicKeyHex")
        statement = proof_statement(self.rules.server_name, peer.peer_id, nonce)
        if not verify_proof(message.publicKeyHex, message.signature, statement):
            raise SignalingError("proof-invalid", "The signature does not fit", field="signature")

    def _is_invite(self, given: str) -> bool:
        return any_equal(given, self.rules.invites)


def any_equal(given: str, secrets: Sequence[str]) -> bool:
    """Whether it is one of them, in a time that does not tell how much of it is right."""
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(given.encode(errors="replace"), secret.encode())
    return found
