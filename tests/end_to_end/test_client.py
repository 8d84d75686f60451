"""tavern.client speaks the whole protocol: against the running program, as bots do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tavern.client import (
    ChannelJoined,
    Client,
    Keypair,
    Kicked,
    PeerJoinedChannel,
    PresenceChanged,
    ReceivedOffer,
    ServerError,
    Tavern,
    WatchEnded,
    WrongServer,
    open_client,
)
from tavern.client.connection import is_called
from tavern.client.websocket import open_websocket
from tests.end_to_end.server import RunningServer, free_port, running_server

pytestmark = pytest.mark.end_to_end
ALICE, BOB = Keypair.generate(), Keypair.generate()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as server:
        yield server


async def joined(
    client: Client, tavern: Tavern, keypair: Keypair, name: str, invite: str | None = None
) -> ChannelJoined:
    return await client.join_channel(tavern.id, tavern.channels[0].id, keypair.identity(name), invite=invite)


async def test_owners_and_members_of_a_locked_tavern(server: RunningServer) -> None:
    async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
        welcome = await alice.hello()
        assert (welcome.server, welcome.mayCreate, welcome.inviteRequired) == ("localhost", "anyone", False)
        await alice.prove_identity(ALICE)
        await bob.prove_identity(BOB)
        tavern = await alice.create_tavern("Pony")
        assert tavern.owner == tavern.createdBy == ALICE.public_key_hex
        manage = alice.manage(tavern.id)
        assert (await manage.update(name="Bree", locked=True)).locked
        with pytest.raises(ServerError) as refused:
            await joined(bob, tavern, BOB, "Bob")
        assert refused.value.code == "tavern-locked"
        invite = await manage.create_invite(max_uses=1, expires_in_s=600)
        assert invite.token is not None
        assert invite.token not in repr(invite)
        assert (await joined(bob, tavern, BOB, "Bob", invite.token)).peers == []
        assert [member.displayName for member in await manage.members()] == ["Bob"]
        rotated = await manage.rotate_invite(invite.id)
        assert (rotated.id, rotated.uses) == (invite.id, 0)
        assert [found.token for found in await manage.invites()] == [None]
        await manage.revoke_invite(invite.id)
        assert (await manage.set_moderator(BOB.public_key_hex, True)).moderators == [BOB.public_key_hex]
        assert (await bob.manage(tavern.id).rename_channel(tavern.channels[0].id, "Hearth")).name == "Hearth"
        assert await bob.manage(tavern.id).bans() == []
        await manage.set_moderator(BOB.public_key_hex, False)
        await manage.kick(BOB.public_key_hex, "too loud")
        while not isinstance(event := await bob.next_event(), Kicked):
            pass
        assert (event.reason, event.banned) == ("too loud", False)
        await joined(bob, tavern, BOB, "Bob")
        assert (await manage.transfer(BOB.public_key_hex)).owner == BOB.public_key_hex
        assert (await bob.manage(tavern.id).transfer(ALICE.public_key_hex)).owner == ALICE.public_key_hex
        await manage.set_moderator(BOB.public_key_hex, False)
        await manage.remove_member(BOB.public_key_hex)
        await manage.ban(BOB.public_key_hex, address=False)
        [ban] = await manage.bans()
        assert ban.displayName == "Bob"
        await manage.unban(ban.id)
        await manage.delete_channel(tavern.channels[0].id)
        await manage.delete()
        with pytest.raises(ServerError, match="Tavern not found"):
            await alice.tavern_info(tavern.id)


async def test_watching(server: RunningServer) -> None:
    async with open_client(server.ws_url) as owner, open_client(server.ws_url) as watcher:
        await owner.prove_identity(ALICE)
        tavern = await owner.create_tavern("Pony")
        assert (await watcher.watch_tavern(tavern.id)).channels == tavern.channels
        await joined(owner, tavern, ALICE, "Alice")
        event = await watcher.next_event()
        assert isinstance(event, PresenceChanged)
        [peer] = event.peers
        assert (peer.displayName, peer.verified) == ("Alice", True)
        await owner.manage(tavern.id).update(locked=True)
        assert await watcher.next_event() == WatchEnded(tavern.id, "tavern-locked")
        await watcher.unwatch_tavern(tavern.id)


async def test_extra_members_go_from_client_to_client(server: RunningServer) -> None:
    async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
        await alice.join_room("signed")
        await bob.join_room("signed")
        await alice.send_offer("v=0", fingerprintSignature={"value": "ab"}, type="answer")
        event = await bob.next_event()
        assert isinstance(event, ReceivedOffer)
        assert (event.sdp, event.extra) == ("v=0", {"fingerprintSignature": {"value": "ab"}})


async def test_a_call_goes_on_while_the_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    settings = {"PORT": str(free_port())}
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
            await alice.prove_identity(ALICE)
            tavern = await alice.create_tavern("Pony")
            await joined(alice, tavern, ALICE, "Alice")
            await joined(bob, tavern, BOB, "Bob")
            tokens = [await alice.get_resume_token(), await bob.get_resume_token()]
            await bob.update_identity(BOB.identity("Robert"))
            await bob.tavern_info(tavern.id)
            assert bob.resume_token not in (None, tokens[1])  # it says another name
            tokens[1] = bob.resume_token or ""
            server.process.kill()
            await trio.to_thread.run_sync(server.process.wait)
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
            resumed = await alice.resume(tokens[0])
            assert (resumed.tavernId, resumed.continued, resumed.peers) == (tavern.id, False, [])
            [peer] = (await bob.resume(tokens[1])).peers
            assert (peer.publicKeyHex, peer.verified) == (ALICE.public_key_hex, True)
            await alice.manage(tavern.id).update(name="Bree")  # verified still


async def test_who_loses_the_connection_is_back_unseen(server: RunningServer) -> None:
    async with open_client(server.ws_url) as bob:
        tavern = await bob.create_tavern("Pony")
        await joined(bob, tavern, BOB, "Bob")
        async with open_websocket(server.ws_url) as socket:
            alice = Client(socket, "127.0.0.1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice._read)
                await joined(alice, tavern, ALICE, "Alice")
                token = await alice.get_resume_token()
                await trio.aclose_forcefully(socket._stream)
                nursery.cancel_scope.cancel()
        async with open_client(server.ws_url) as again:
            resumed = await again.resume(token)
            assert resumed.continued
            await again.send_offer("v=0", BOB.public_key_hex)
            assert isinstance(await bob.next_event(), PeerJoinedChannel)
            event = await bob.next_event()
            assert isinstance(event, ReceivedOffer), "it had never left"
            with pytest.raises(ServerError) as failed:
                await again.resume(token)
            assert failed.value.code == "resume-failed"


async def test_a_server_that_calls_itself_by_another_name_gets_no_proof(tmp_path: Path) -> None:
    with running_server(
        {"TAVERN_DOMAIN": "tavern.example.com", "TAVERN_EXTERNAL_IP": "127.0.0.1"}, tmp=tmp_path
    ) as server:
        async with open_client(server.ws_url) as client:
            with pytest.raises(WrongServer, match=r"calls itself tavern\.example\.com.*TAVERN_DOMAIN"):
                await client.prove_identity(ALICE)
            assert not (await client.hello()).verified


@pytest.mark.parametrize(
    ("server_name", "host", "same"),
    [
        ("tavern.example.com", "tavern.example.com", True),
        ("tavern.example.com", "Tavern.Example.com.", True),
        ("tavern.example.com", "evil.example", False),
        ("tavern.example.com", "192.0.2.1", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "192.168.1.5", True),
        ("localhost", "::1", True),
        ("localhost", "evil.example", False),
    ],
)
def test_whom_a_proof_is_for(server_name: str, host: str, same: bool) -> None:
    assert is_called(server_name, host) is same


def test_a_key_file_is_read_again_and_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / f"tavern-identity-{ALICE.public_key_hex[:8]}.tavern-key"
    ALICE.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keypair.load(path).public_key_hex == ALICE.public_key_hex
    exported = json.loads(path.read_text())
    assert (exported["version"], exported["type"]) == (1, "tavern-keypair-export")
    assert len(bytes.fromhex(exported["privateKeyHex"])) == 48  # PKCS#8 of an Ed25519 key
    with pytest.raises(FileExistsError):
        ALICE.save(path)
    assert ALICE.identity("A").tag == f"TVN-{ALICE.public_key_hex[:4]}-{ALICE.public_key_hex[4:8]}"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"type": "x"},
        {"publicKeyHex": "00" * 32},
        {"privateKeyHex": "00"},
        {"privateKeyHex": 7},
        {"privateKeyHex": None},
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "key"
    ALICE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="no exported Tavern key"):
        Keypair.load(path)
    path.write_text("x" * 100_000)
    with pytest.raises(ValueError, match="no exported Tavern key"):
        Keypair.load(path)


async def test_a_key_that_is_proven_elsewhere_is_refused_and_said_so(server: RunningServer) -> None:
    async with open_client(server.ws_url) as alice, open_client(server.ws_url) as eve:
        await alice.prove_identity(ALICE)
        tavern = await alice.create_tavern("Pony")
        await joined(alice, tavern, ALICE, "Alice")
        with pytest.raises(ServerError) as refused:
            await joined(eve, tavern, ALICE, "Alice")
        assert refused.value.code == "identity-in-use"
        with pytest.raises(ServerError) as refused:
            await joined(alice, tavern, BOB, "Bob")
        assert refused.value.code == "identity-fixed"


def test_the_bot_of_the_readme_greets_who_comes(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    bot = readme.partition("```python\n")[2].partition("```")[0]
    with running_server() as server:
        file = tmp_path / "bot.py"
        file.write_text(bot.replace("localhost:3001", f"localhost:{server.http_port}"))
        process = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            link = process.stdout.readline()
            assert "/join/" in link
            trio.run(visit, server.ws_url, link.rpartition("/")[2].strip())
            assert process.stdout.readline() == "Welcome, Alice (proven)\n"
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


async def visit(url: str, tavern_id: str) -> None:
    async with open_client(url) as client:
        await client.prove_identity(ALICE)
        await joined(client, await client.tavern_info(tavern_id), ALICE, "Alice")
