"""Which implementation of the data path runs: the compiled one where there is one, else the one in Python."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import attrs

from tavern.errors import StartupError
from tavern.relay.data_path import DataPath
from tavern.relay.native.data_path import NativeDataPath
from tavern.relay.native.library import NoNativeDataPath, load_library
from tavern.relay.sockets import Listener
from tavern.relay.thread import PythonDataPath
from tavern.turn.metering import Meter

MAX_REALM_SIZE = 128
"""Of an answer that the compiled data path makes (challenge.h); a longer name is the control side's to say."""

DataPathName = Literal["native", "python"]
DataPathChoice = Literal["auto", "native", "python"]


@attrs.frozen
class ChosenDataPath:
    """The one that runs."""

    name: DataPathName
    reason: str = ""
    """Why it is the one in Python."""


def choose_data_path(choice: DataPathChoice) -> ChosenDataPath:
    """StartupError where the compiled one is asked for and cannot be had, which says why."""
    if choice == "python":
        return ChosenDataPath("python", "TAVERN_TURN_DATA_PATH=python")
    try:
        load_library()
    except NoNativeDataPath as error:
        if choice == "native":
            raise StartupError(f"TAVERN_TURN_DATA_PATH=native: there is no compiled data path: {error}") from error
        return ChosenDataPath("python", f"there is no compiled data path: {error}")
    return ChosenDataPath("native")


@attrs.frozen
class Challenges:
    """The 401 answers that the compiled data path gives by itself, to requests that prove nothing yet."""

    nonce_key: bytes = attrs.field(repr=False)
    realm: bytes
    rate_per_s: float
    """For each source. What is beyond it goes to the control side, which has the other half of what is allowed."""


def challenges(name: DataPathName, nonce_key: bytes, realm: str, rate_per_s: int) -> Challenges | None:
    """Half of what a source may be answered; None where all is the control side's."""
    if name == "python" or len(realm.encode()) > MAX_REALM_SIZE:
        return None
    return Challenges(nonce_key, realm.encode(), rate_per_s / 2)


def open_data_path(
    name: DataPathName,
    listeners: list[Listener],
    own_hosts: frozenset[str],
    *,
    user_bytes_per_s: int,
    bytes_per_s: int,
    challenges: Challenges | None,
) -> DataPath:
    """To be called inside trio. The data path takes the listeners over, unless this raises (OSError).

    `own_hosts`: the advertised addresses. The rates are `Meter`'s; 0: unlimited.
    """
    if name == "native":
        native = NativeDataPath(listeners, own_hosts, user_bytes_per_s=user_bytes_per_s, bytes_per_s=bytes_per_s)
        if challenges is not None:
            native.answer_challenges(challenges.nonce_key, challenges.realm, challenges.rate_per_s)
        return native
    return PythonDataPath(listeners, own_hosts, Meter(user_bytes_per_s, bytes_per_s))


def together(data_path: DataPath) -> AbstractContextManager[None]:
    """Commands of the block may be executed at its end, with less work for each. Not within another one.

    The thread in Python takes all that are there when it comes to run, however they were submitted.
    """
    return data_path.together() if isinstance(data_path, NativeDataPath) else nullcontext()
