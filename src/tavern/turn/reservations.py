"""Ports that are kept for an allocation to come: EVEN-PORT with R, and RESERVATION-TOKEN (RFC 8656 §7.2). Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random

import attrs

from tavern.stun.attributes import RESERVATION_TOKEN_SIZE, AddressFamily
from tavern.turn.allocation import QuotaKey
from tavern.turn.sessions import Owner

RESERVATION_LIFETIME_S = 30.0  # RFC 8656 §7.2: at least


@attrs.frozen(eq=False)
class Reservation:
    """`port` is taken for the next allocation of this user, who names it by `token`."""

    token: bytes = attrs.field(repr=False)
    quota_key: QuotaKey
    source: str
    """The client's address or /64 (`source_key`)."""
    owner: Owner | None
    family: AddressFamily
    port: int
    expires_at: float


class Reservations:
    """All of them, by token. Each counts for its user's and its address's quota and for the limit of all.

    Otherwise whoever allocates and goes, again and again, would reserve every port.
    """

    def __init__(self, random: Random) -> None:
        """`random` draws tokens."""
        self._random = random
        self._by_token: dict[bytes, Reservation] = {}
        """The first to expire first, since all have as long."""
        self._by_owner: defaultdict[Owner, dict[bytes, Reservation]] = defaultdict(dict)
        self._held: Counter[QuotaKey] = Counter()
        self._held_at: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Reservation]:
        return iter(self._by_token.values())

    def held_by(self, key: QuotaKey) -> int:
        """How many this user has from there."""
        return self._held.get(key, 0)

    def held_at(self, source: str) -> int:
        """How many clients at this address have, whoever they are."""
        return self._held_at.get(source, 0)

    def of_owner(self, owner: Owner) -> tuple[Reservation, ...]:
        """All that this owner has."""
        return tuple(self._by_owner.get(owner, {}).values())

    def find(self, token: bytes, key: QuotaKey) -> Reservation | None:
        """This user's reservation of that token. Whoever has somebody else's token has nothing."""
        reservation = self._by_token.get(token)
        return None if reservation is None or reservation.quota_key != key else reservation

    def add(
        self, key: QuotaKey, source: str, owner: Owner | None, family: AddressFamily, port: int, now: float
    ) -> Reservation:
        """`port`, which was taken before, is reserved from now on."""
        token = self._random.randbytes(RESERVATION_TOKEN_SIZE)
        reservation = Reservation(token, key, source, owner, family, port, now + RESERVATION_LIFETIME_S)
        self._by_token[token] = reservation
        self._held[key] += 1
        self._held_at[source] += 1
        if owner is not None:
            self._by_owner[owner][token] = reservation
        return reservation

    def remove(self, reservation: Reservation) -> None:
        """The token is nobody's; the port is the caller's to use or to release."""
        del self._by_token[reservation.token]
        self._held[reservation.quota_key] -= 1
        if not self._held[reservation.quota_key]:
            del self._held[reservation.quota_key]
        self._held_at[reservation.source] -= 1
        if not self._held_at[reservation.source]:
            del self._held_at[reservation.source]
        if reservation.owner is not None:
            del self._by_owner[reservation.owner][reservation.token]
            if not self._by_owner[reservation.owner]:
                del self._by_owner[reservation.owner]

    def next_deadline(self) -> float | None:
        """When the next one expires."""
        first = next(iter(self._by_token.values()), None)
        return None if first is None else first.expires_at

    def expired(self, now: float) -> list[Reservation]:
        """Those whose time has come; the caller removes them."""
        due: list[Reservation] = []
        for reservation in self._by_token.values():
            if reservation.expires_at > now:
                break
            due.append(reservation)
        return due
