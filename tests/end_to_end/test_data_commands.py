"""`tavern backup`, `restore` and `check` as operators type them, beside a server that is in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tavern.client import Keypair, open_client
from tests.end_to_end.server import environment, running_server

pytestmark = pytest.mark.end_to_end
ALICE, BOB = Keypair.generate(), Keypair.generate()


def tavern(data: Path, *arguments: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Exit code, standard output and what was said on standard error."""
    ran = subprocess.run(
        [sys.executable, "-m", "tavern", *arguments],
        env=environment(data),
        input=stdin,
        capture_output=True,
        timeout=20,
    )
    return ran.returncode, ran.stdout, ran.stderr.decode()


async def test_a_server_under_a_call_is_backed_up_and_restored_with_nothing_lost(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy.db"
    data.mkdir()
    with running_server(tmp=data) as server:
        async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
            for client, keypair in ((alice, ALICE), (bob, BOB)):
                await client.prove_identity(keypair)
            pony = await alice.create_tavern("Pony")
            invite = await alice.manage(pony.id).create_invite()
            await alice.manage(pony.id).update(locked=True)
            await alice.join_channel(pony.id, pony.channels[0].id, ALICE.identity("Alice"))
            await bob.join_channel(pony.id, pony.channels[0].id, BOB.identity("Bob"), invite=invite.token)
            assert tavern(data, "check")[0] == 0
            code, said, complaint = tavern(data, "backup", copy)
            assert (code, complaint) == (0, "")
            assert said.startswith(b"backed up 1 taverns with 1 channels (")
            code, streamed, said_beside = tavern(data, "backup", "-")
            assert (code, streamed[:15]) == (0, b"SQLite format 3")
            assert said_beside.startswith("backed up 1 taverns")
            await bob.send_offer("v=0", ALICE.public_key_hex)  # the call goes on
            await alice.create_tavern("Bree")
            code, said, complaint = tavern(data, "restore", copy)
            assert (code, said) == (2, b"")
            assert "in use by another Tavern server" in complaint
    assert tavern(data, "restore", copy)[0] == 0
    with running_server(tmp=data) as server:
        assert server.get_json("/health")["taverns"] == 1
        async with open_client(server.ws_url) as bob:
            await bob.prove_identity(BOB)
            joined = await bob.join_channel(pony.id, pony.channels[0].id, BOB.identity("Bob"))
            assert joined.channelId == pony.channels[0].id
    code, said, complaint = tavern(data, "restore", "-", stdin=streamed)
    assert (code, complaint) == (0, "")
    assert b"what was there before is" in said
    assert len([file for file in data.iterdir() if ".before-" in file.name]) == 2
    assert tavern(data, "check")[0] == 0


def test_what_cannot_be_done_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"garbage" * 1000)
    for arguments, code, words in [
        (("check",), 1, "there is no database"),
        (("check", garbage), 1, "is not a database"),
        (("backup", tmp_path / "copy.db"), 1, "there is no database"),
        (("restore", tmp_path / "copy.db"), 1, "there is no database"),
        (("restore", "-"), 1, "no taverns"),
        (("check", "--db-path", str(garbage)), 1, "is not a database"),
    ]:
        returned, said, complaint = tavern(tmp_path, *arguments)
        assert (returned, said) == (code, b""), arguments
        assert complaint.startswith("tavern: "), arguments
        assert words in complaint, arguments
        assert len(complaint.splitlines()) == 1, arguments
