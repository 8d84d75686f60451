"""Coming back after an abrupt loss: who took a token keeps its place for a while, and what is sent to it is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import attrs
import trio

from tavern.logs import log_event
from tavern.signaling import messages
from tavern.signaling.ice import iso_utc
from tavern.signaling.presence import CLOSE_NORMAL, others_in_channel
from tavern.signaling.registry import Registry
from tavern.signaling.relaying import membership
from tavern.signaling.resume_tokens import ResumeClaims, ResumeTokens, SpentTokens
from tavern.signaling.rooms import Channel, Peer
from tavern.signaling.timers import Timer
from tavern.signaling.transport import Membership, Transport

ABSENCE_S = 15.0
"""So long a place is kept. The relay keeps what belongs to a lost session as long."""

TOKEN_LIFETIME_S = 600
RENEWAL_MARGIN_S = 120
"""So long before its end a token is replaced by a new one."""

AFTER_START_S = 60.0
"""So long tokens of the run before are taken: clients come back within seconds, those with a slow network in more."""

MAX_ABSENT = 1024
"""Who connects, joins and vanishes all the time does not fill the memory; beyond, a loss is a leave."""

MAX_KEPT_MESSAGES = 64
MAX_KEPT_BYTES = 256 * 1024
"""For one who is away: a whole channel's offers made anew, with their candidates. Whoever is sent more leaves."""

_PRESENCE = b'{"type":"peer-'
"""What messages of who comes, goes and is called otherwise begin with."""

_log = logging.getLogger("tavern.signaling")


class Mailbox:
    """Stands in for the transport of a client that is away: keeps what it is sent, or gives up on it."""

    congested = False

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.kept: list[bytes] = []
        self._size_bytes = 0
        self._give_up = give_up
        self._closed = False

    def send(self, message: bytes) -> None:
        # Who came and went meanwhile is in the list that it is given when it is back.
        if self._closed or message.startswith(_PRESENCE):
            return
        self._size_bytes += len(message)
        if len(self.kept) >= MAX_KEPT_MESSAGES or self._size_bytes > MAX_KEPT_BYTES:
            self.close(0, "")
        else:
            self.kept.append(message)

    def set_membership(self, membership: Membership | None) -> None:
        """See `Transport`: nothing comes from it."""

    def close(self, _code: int, _reason: str) -> None:
        if not self._closed:
            self._closed = True
            self.kept.clear()
            self._give_up()


@attrs.define(eq=False)
class _Resumable:
    """What is known of a peer that took a token. `counter` is that of its newest one, which alone is valid."""

    peer: Peer
    counter: int = 0
    place: Channel | None = None
    """The one that its newest token names."""
    renewal: Timer | None = None
    absence: Timer | None = None

    def stop(self) -> None:
        for timer in (self.renewal, self.absence):
            if timer is not None:
                timer.cancel()
        self.renewal = self.absence = None


class Resumptions:
    """All peers that may come back. Used from the trio thread; nothing here waits."""

    def __init__(self, registry: Registry, tokens: ResumeTokens) -> None:
        self._registry = registry
        self._tokens = tokens
        self._spent = SpentTokens()
        self._by_peer_id: dict[str, _Resumable] = {}
        self._absent = 0
        self._started_at = trio.current_time()
        registry.on_moved = self._moved

    def take(self, peer: Peer) -> None:
        """The peer is sent a token now, and a new one before it ends and whenever what it says is not true any more."""
        resumable = self._by_peer_id.get(peer.peer_id)
        if resumable is None:
            resumable = self._by_peer_id[peer.peer_id] = _Resumable(peer)
        self._send_token(resumable)

    def renew(self, peer: Peer) -> None:
        """What the peer's token says is not true any more: it is sent another one, if it took one."""
        resumable = self._by_peer_id.get(peer.peer_id)
        if resumable is not None:
            self._send_token(resumable)

    def forget(self, peer: Peer) -> None:
        """The peer's tokens are worth nothing."""
        resumable = self._by_peer_id.pop(peer.peer_id, None)
        if resumable is not None:
            self._end_absence(resumable)
            resumable.stop()

    def keep_place(self, peer: Peer, transport: Transport) -> bool:
        """Whether the peer, whose connection was lost, keeps its place for ABSENCE_S; else the caller disconnects it.

        True also where it is somebody else's already: its client was back before the loss was seen.
        """
        if peer.outlet is not transport:
            return True
        resumable = self._by_peer_id.get(peer.peer_id)
        registry = self._registry
        may_stay = registry.is_connected(peer) and not registry.draining and isinstance(peer.place, Channel)
        if resumable is None or not may_stay or self._absent >= MAX_ABSENT:
            return False
        self._absent += 1
        give_up = partial(self._give_up_soon, resumable)
        peer.outlet = Mailbox(give_up)
        registry.watchers.forget(peer)
        when = trio.current_time() + ABSENCE_S
        resumable.stop()
        resumable.absence = registry.timers.call_at(when, partial(self._give_up, resumable))
        log_event(_log, logging.INFO, "peer-away", peer=peer.peer_id)
        return True

    def resume(self, token: str, newcomer: Peer, transport: Transport) -> Peer | ResumeClaims:
        """The peer that the newcomer's client goes on as, which has been told; or, of a token of the run before, what
        it claims: that is to be joined anew, with what was proven.

        Raises SignalingError (`resume-failed`), changing nothing.
        """
        claims = self._tokens.read(token, time.time())
        if claims is None or newcomer.place is not None or newcomer.proven_key not in (None, _proven_key(claims)):
            raise messages.resume_failed()
        if claims.run_id != self._tokens.run_id:
            return self._claims_of_former_run(claims)
        resumable = self._by_peer_id.get(claims.peer_id)
        if resumable is None or resumable.counter != claims.counter or resumable.peer is newcomer:
            raise messages.resume_failed()
        peer = resumable.peer
        if not self._registry.is_connected(peer) or not isinstance(peer.place, Channel):
            raise messages.resume_failed()
        self._change_hands(resumable, newcomer, transport)
        return peer

    def resumed_message(self, peer: Peer, *, continued: bool) -> dict[str, object]:
        """What its client is told when it is back in its channel."""
        channel = peer.place
        assert isinstance(channel, Channel)
        return {
            "type": "resumed",
            "tavernId": channel.room.room_id,
            "channelId": channel.channel_id,
            "peers": others_in_channel(peer, channel),
            "continued": continued,
            "connection": peer.peer_id,
        }

    def _change_hands(self, resumable: _Resumable, newcomer: Peer, transport: Transport) -> None:
        registry, peer, before = self._registry, resumable.peer, resumable.peer.outlet
        kept = before.kept if isinstance(before, Mailbox) else []
        self._end_absence(resumable)
        registry.absorb(newcomer)
        peer.outlet, peer.host = transport, transport.client_host
        peer.extended = True
        if not isinstance(before, Mailbox):
            registry.watchers.forget(peer)
            before.close(CLOSE_NORMAL, "resumed elsewhere")
        registry.observer.session_returned(peer.peer_id, peer.host)
        registry.send((peer,), self.resumed_message(peer, continued=True))
        self._send_token(resumable)
        for message in kept:
            transport.send(message)
        transport.set_membership(membership(peer))

    def _claims_of_former_run(self, claims: ResumeClaims) -> ResumeClaims:
        now = trio.current_time()
        if now - self._started_at > AFTER_START_S or not claims.channel_id:
            raise messages.resume_failed()
        if not self._spent.spend(claims):
            raise messages.resume_failed()
        return claims

    def _moved(self, peer: Peer) -> None:
        resumable = self._by_peer_id.get(peer.peer_id)
        if resumable is None:
            return
        if isinstance(peer.place, Channel):
            # Who goes from one channel to another is told of twice, after he has arrived.
            if peer.place is not resumable.place:
                self._send_token(resumable)
            return
        resumable.counter += 1  # the token names a place that is left
        resumable.place = None
        if isinstance(peer.outlet, Mailbox):
            self._give_up_soon(resumable)

    def _send_token(self, resumable: _Resumable) -> None:
        """The former one is worth nothing from now on. Who is in no channel gets none: there is no way back."""
        peer, channel, identity = resumable.peer, resumable.peer.place, resumable.peer.identity
        resumable.stop()
        resumable.counter += 1
        resumable.place = channel if isinstance(channel, Channel) else None
        if not isinstance(channel, Channel) or identity is None:
            return
        claims = ResumeClaims(
            run_id=self._tokens.run_id,
            peer_id=peer.peer_id,
            counter=resumable.counter,
            expires_at=int(time.time()) + TOKEN_LIFETIME_S,
            tavern_id=channel.room.room_id,
            channel_id=channel.channel_id,
            identity=identity,
            verified=peer.verified,
        )
        token = self._tokens.issue(claims)
        self._registry.send((peer,), {"type": "resume-token", "token": token, "expiresAt": iso_utc(claims.expires_at)})
        when = trio.current_time() + TOKEN_LIFETIME_S - RENEWAL_MARGIN_S
        resumable.renewal = self._registry.timers.call_at(when, partial(self._send_token, resumable))

    def _give_up_soon(self, resumable: _Resumable) -> None:
        """Not at once: who is in the middle of sending to a room must not find it changed."""
        if resumable.absence is not None:
            resumable.absence.cancel()
        now = trio.current_time()
        resumable.absence = self._registry.timers.call_at(now, partial(self._give_up, resumable))

    def _give_up(self, resumable: _Resumable) -> None:
        if isinstance(resumable.peer.outlet, Mailbox):
            log_event(_log, logging.INFO, "peer-did-not-return", peer=resumable.peer.peer_id)
            self.forget(resumable.peer)
            self._registry.disconnect(resumable.peer)

    def _end_absence(self, resumable: _Resumable) -> None:
        if isinstance(resumable.peer.outlet, Mailbox):
            self._absent -= 1
        resumable.stop()


def _proven_key(claims: ResumeClaims) -> str | None:
    return claims.identity.publicKeyHex if claims.verified else None
