"""Who may do what in a tavern. Pure.

Roles belong to keys, and count only for who has proven to hold one. Whoever names the owner's key is nobody.
"""

from __future__ import annotations

from enum import IntEnum

from tavern.signaling import messages
from tavern.signaling.messages import SignalingError
from tavern.store.base import TavernAccess


class Role(IntEnum):
    """From the least to the most."""

    NONE = 0
    MEMBER = 1
    MODERATOR = 2
    OWNER = 3


_NEEDS: dict[str, Role] = {
    "update-tavern": Role.OWNER,
    "delete-tavern": Role.OWNER,
    "update-channel": Role.MODERATOR,
    "delete-channel": Role.OWNER,
    "kick": Role.MODERATOR,
    "ban": Role.MODERATOR,
    "unban": Role.MODERATOR,
    "get-bans": Role.MODERATOR,
    "set-moderator": Role.OWNER,
    "transfer-tavern": Role.OWNER,
    "create-invite": Role.MODERATOR,
    "rotate-invite": Role.MODERATOR,
    "revoke-invite": Role.MODERATOR,
    "get-invites": Role.MODERATOR,
    "get-members": Role.MODERATOR,
    "remove-member": Role.MODERATOR,
}
"""The least role for each request."""

_AGAINST_OTHERS = frozenset({"kick", "ban", "remove-member"})
"""Requests that nobody makes against himself, or against somebody of his own role or above."""


def role(found: TavernAccess, proven_key: str | None) -> Role:
    """The role of who has proven this key; None: of who has proven none."""
    if proven_key is None:
        return Role.NONE
    if proven_key == found.owner_key:
        return Role.OWNER
    member = found.members.get(proven_key)
    if member is None:
        return Role.NONE
    return Role.MODERATOR if member.role == "moderator" else Role.MEMBER


def check_command(request: str, found: TavernAccess, proven_key: str | None, target_key: str | None = None) -> None:
    """Raises SignalingError (`not-permitted`) unless this is for the holder of the key to ask.

    `target_key` is the proven key, or the one that a role is stored under, of whom the request is against.
    """
    if not found.owner_key:
        raise SignalingError("not-permitted", "This tavern has no owner: nobody manages it")
    own = role(found, proven_key)
    if own < _NEEDS[request]:
        who = "its owner" if _NEEDS[request] is Role.OWNER else "its owner and moderators"
        raise SignalingError("not-permitted", f"Only {who} may do this in this tavern")
    if request not in _AGAINST_OTHERS or target_key is None:
        return
    if target_key == proven_key:
        raise SignalingError("not-permitted", "Nobody does this to himself", field="publicKeyHex")
    if role(found, target_key) >= own:
        raise SignalingError("not-permitted", "Nobody does this to the owner, nor a moderator to another one")


def check_enter(found: TavernAccess, key: str | None, proven_key: str | None, address_hash: str) -> None:
    """Raises SignalingError (`banned`, `tavern-locked`) unless who goes by `key` may join, watch and make channels."""
    own = role(found, proven_key)
    if own < Role.MODERATOR and is_banned(found, key, address_hash):
        raise SignalingError("banned", "You are banned from this tavern")
    if found.locked and own is Role.NONE:
        raise SignalingError("tavern-locked", "This tavern is locked: only its members enter, and who has an invite")


def is_banned(found: TavernAccess, key: str | None, address_hash: str) -> bool:
    """Whether a ban names this key or this address."""
    return (key is not None and found.is_key_banned(key)) or found.is_address_banned(address_hash)


def may_enter(found: TavernAccess, key: str | None, proven_key: str | None, address_hash: str) -> bool:
    """Whether `check_enter` lets it pass."""
    try:
        check_enter(found, key, proven_key, address_hash)
    except messages.SignalingError:
        return False
    return True
