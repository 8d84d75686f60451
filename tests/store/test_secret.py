"""The stored TURN secret: made once, whole or not at all, for the owner alone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from tavern.errors import StartupError
from tavern.store import secret as secret_module
from tavern.store.secret import load_or_create_secret


def test_a_secret_is_made_once_and_reused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "turn-secret"
    secret = load_or_create_secret(path)
    assert len(secret) >= 40
    assert load_or_create_secret(path) == secret
    assert load_or_create_secret(tmp_path / "other") != secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["turn-secret"]


def test_a_new_secret_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the whole file, then the name by which it is found."""
    path = tmp_path / "turn-secret"
    synced: list[str] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            assert os.path.samestat(os.fstat(descriptor), tmp_path.stat())
            assert path.exists()
            synced.append("directory")
        else:
            assert os.fstat(descriptor).st_size >= 40
            assert not path.exists()
            synced.append("file")
        fsync(descriptor)

    monkeypatch.setattr(secret_module.os, "fsync", seen)  # type: ignore[attr-defined]
    load_or_create_secret(path)
    assert synced == ["file", "directory"]
    load_or_create_secret(path)
    assert len(synced) == 2


def test_an_operators_own_secret_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "turn-secret"
    path.write_text("correct-horse-battery-staple\r\n")
    assert load_or_create_secret(path) == "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"two words are not one", b"\0" * 43, os.urandom(43) + b"\0", b"x" * 5000]
)
def test_a_file_without_a_secret_stops_the_start_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "turn-secret"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="TAVERN_TURN_SECRET") as caught:
        load_or_create_secret(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "turn-secret"
    os.mkfifo(path)  # reading it would wait for somebody who writes
    with pytest.raises(StartupError, match="no regular file") as caught:
        load_or_create_secret(path)
    assert str(path) in str(caught.value)
    assert "TAVERN_TURN_SECRET" in str(caught.value)


def test_a_path_that_cannot_hold_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "turn-secret", Path("/proc/tavern/turn-secret")):
        with pytest.raises(StartupError, match="TAVERN_TURN_SECRET") as caught:
            load_or_create_secret(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_another_start_stored_meanwhile_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "turn-secret"
    link = os.link

    def late_link(source: Path, target: Path) -> None:
        path.write_text("the-other-start-was-faster\n")
        link(source, target)

    monkeypatch.setattr(secret_module.os, "link", late_link)  # type: ignore[attr-defined]
    assert load_or_create_secret(path) == "the-other-start-was-faster"
    assert [file.name for file in tmp_path.iterdir()] == ["turn-secret"]


def test_a_file_system_without_links_keeps_a_secret_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(_source: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(secret_module.os, "link", no_link)  # type: ignore[attr-defined]
    secret = load_or_create_secret(tmp_path / "turn-secret")
    assert load_or_create_secret(tmp_path / "turn-secret") == secret
    assert [file.name for file in tmp_path.iterdir()] == ["turn-secret"]


def test_starts_that_race_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        for number in range(20):
            found = pool.map(load_or_create_secret, [tmp_path / str(number)] * 4, chunksize=1)
            assert len(set(found)) == 1
