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


def open_data_path(
    name: DataPathName, listeners: list[Listener], own_hosts: frozenset[str], *, user_bytes_per_s: int, bytes_per_s: int
) -> DataPath:
    """To be called inside trio. The data path takes the listeners over, unless this raises (OSError).

    `own_hosts`: the advertised addresses. The rates are `Meter`'s; 0: unlimited.
    """
    if name == "native":
        return NativeDataPath(listeners, own_hosts, user_bytes_per_s=user_bytes_per_s, bytes_per_s=bytes_per_s)
    return PythonDataPath(listeners, own_hosts, Meter(user_bytes_per_s, bytes_per_s))


def together(data_path: DataPath) -> AbstractContextManager[None]:
    """Commands of the block may be executed at its end, with less work for each. Not within another one.

    The thread in Python takes all that are there when it comes to run, however they were submitted.
    """
    return data_path.together() if isinstance(data_path, NativeDataPath) else nullcontext()
