"""The guide's commands, typed on a real Docker engine: build, up, a call, backup, restore, update, stop."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from playwright.sync_api import sync_playwright

from tavern.client import open_client
from tavern.client.turn import open_turn
from tavern.client.websocket import open_websocket
from tavern.relay.addresses import primary_ipv4
from tests.compose.engine import Engine, NoEngine, Stack, base_names, import_base, import_nginx, running_engine
from tests.end_to_end.browser import IceChoice, Visitor, chromium, write_tone
from tests.end_to_end.pebble import DOMAIN, running_pebble
from tests.end_to_end.server import free_port

REPOSITORY = Path(__file__).parents[2]
DIRECT = IceChoice(policy="all")
PROMISED_IMAGE_MB = 100
"""Beyond the base image."""
MEMORY_MB = 512

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(400)]

# A build reaches the package index over the machine's own network: this engine has no NAT. And nobody waits 10 s.
OVERRIDE = """
services:
  signaling:
    build:
      network: host
    mem_limit: 512m
    cpus: 1
    healthcheck:
      interval: 1s
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    try:
        with running_engine(tmp_path_factory.mktemp("engine")) as engine:
            for name in base_names(REPOSITORY / "compose" / "Dockerfile"):
                import_base(engine, name)
            yield engine
    except NoEngine as error:
        pytest.skip(f"THE IMAGE WAS NOT TRIED ON A DOCKER ENGINE: {error}")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has cloned."""
    target = tmp_path_factory.mktemp("clone") / "tavern"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "node_modules", ".*")
    for name in ("src", "compose"):
        shutil.copytree(REPOSITORY / name, target / name, ignore=unwanted)
    shutil.copy(REPOSITORY / "compose" / ".env.example", target / "compose")
    for name in ("pyproject.toml", "README.md", "hatch_build.py", ".dockerignore"):
        shutil.copy(REPOSITORY / name, target)
    return target


@pytest.fixture(scope="module")
def stack(engine: Engine, checkout: Path) -> Iterator[Stack]:
    """Up, with its default settings but for the ports, which are free ones."""
    override = checkout / "override.yaml"
    override.write_text(OVERRIDE)
    first = 20_000 + os.getpid() % 8_000
    settings = {
        "TAVERN_PORT": str(free_port()),
        "TAVERN_TURN_PORT": str(free_port()),
        "TAVERN_TURNS_PORT": str(free_port()),
        "TAVERN_TURN_MIN_PORT": str(first),
        "TAVERN_TURN_MAX_PORT": str(first + 31),
    }
    stack = Stack(engine, (checkout / "compose" / "docker-compose.yml", override), settings)
    stack.compose("up", "-d", "--build", "--wait")
    yield stack
    stack.compose("down", "-v")


def url(stack: Stack, scheme: str = "http") -> str:
    return f"{scheme}://localhost:{stack.settings['TAVERN_PORT']}/"


def taverns(stack: Stack) -> int:
    with urllib.request.urlopen(f"{url(stack)}health", timeout=5) as response:
        answer = json.load(response)
    assert answer["status"] == "ok"
    return int(answer["taverns"])


async def create_tavern(stack: Stack, name: str) -> str:
    async with open_client(url(stack, "ws")) as client:
        return (await client.create_tavern(name)).id


def test_it_is_healthy_and_says_what_is_open(stack: Stack) -> None:
    assert taverns(stack) >= 0
    about = stack.container()
    assert about["State"]["Health"]["Status"] == "healthy"
    log = stack.log()
    assert "relayed by       compiled code" in log
    assert "Traceback" not in log
    assert "Warning" not in log


def test_it_runs_as_nobody_in_particular_who_may_do_nothing(stack: Stack) -> None:
    about = stack.container()
    assert about["HostConfig"]["ReadonlyRootfs"] is True
    children = Path(f"/proc/{about['State']['Pid']}/task/{about['State']['Pid']}/children").read_text().split()
    for pid in (about["State"]["Pid"], *children):  # what --init starts first, and the server
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert status["Uid"].split() == ["10001"] * 4
        assert status["Gid"].split() == ["0"] * 4
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
    listing = (
        stack.compose("exec", "-T", "signaling", "sh", "-c", "stat -c '%n %u %a' /data /data/*").decode().splitlines()
    )
    modes = {name: (int(user), mode) for name, user, mode in (line.split() for line in listing)}
    assert modes["/data"] == (10001, "700")
    assert modes["/data/tavern.db"] == (10001, "640")
    assert modes["/data/server-secret"] == (10001, "600")
    assert {user for user, _ in modes.values()} == {10001}


def test_the_image_adds_little_to_its_base(stack: Stack) -> None:
    [base] = base_names(REPOSITORY / "compose" / "Dockerfile")
    size = stack.engine.inspect("tavern-signaling")["Size"] - stack.engine.inspect(base)["Size"]
    assert size < PROMISED_IMAGE_MB * 1_000_000


def test_two_people_talk_through_its_relay(stack: Stack, tmp_path: Path) -> None:
    """Chromium on the host, relay only: through published ports and the engine's proxy."""
    with sync_playwright() as playwright, chromium(playwright, tone=write_tone(tmp_path / "tone.wav")) as browser:
        ada = Visitor.arrive(browser.new_context(), url(stack))
        link = ada.create_tavern("Friday night")
        ada.join("Ada")
        ben = Visitor.arrive(browser.new_context(), link)
        ben.join("Ben")
        for visitor, other in ((ada, "Ben"), (ben, "Ada")):
            visitor.sees_connected(other)
            visitor.hears_more()
            [stats] = visitor.call_stats()
            assert (stats.local, stats.remote) == ("relay", "relay")


async def test_a_restart_keeps_what_there_is(stack: Stack) -> None:
    before = taverns(stack)
    await create_tavern(stack, "Pony")
    stack.compose("restart")
    stack.compose("up", "-d", "--wait")
    assert taverns(stack) == before + 1


async def test_the_guides_backup_and_restore(stack: Stack, tmp_path: Path) -> None:
    copy = tmp_path / "tavern-backup.db"
    await create_tavern(stack, "Bree")
    before = taverns(stack)
    stack.compose("cp", "signaling:/data/tavern.db", str(copy))
    await create_tavern(stack, "Mordor")
    stack.compose("stop")
    stack.compose("cp", str(copy), "signaling:/data/tavern.db")
    stack.compose("up", "-d", "--wait")
    assert taverns(stack) == before
    assert "belonged to user 0" in stack.log()
    await create_tavern(stack, "Rivendell")
    assert taverns(stack) == before + 1


async def test_its_own_backup_and_restore(stack: Stack) -> None:
    before = taverns(stack)
    copy = stack.compose("exec", "-T", "signaling", "tavern", "backup", "-")
    assert b"is whole" in stack.compose("exec", "-T", "signaling", "tavern", "check")
    await create_tavern(stack, "Mordor")
    stack.compose("stop")
    said = stack.compose("run", "--rm", "-T", "signaling", "restore", "-", stdin=copy)
    assert b"restored" in said
    stack.compose("up", "-d", "--wait")
    assert taverns(stack) == before


async def test_the_guides_cron_lines(stack: Stack, checkout: Path, tmp_path: Path) -> None:
    """As cron reads them: what follows the fifth blank, with `\\%` for a percent sign."""
    guide = (REPOSITORY / "docs" / "self-hosting.md").read_text()
    lines = re.findall(r"^    (?:\S+ \S+) \* \* \*  (cd .*)$", guide, re.MULTILINE)
    assert len(lines) == 2
    files = [part for file in stack.files for part in ("-f", str(file))]
    for line in lines:
        command = line.replace("\\%", "%").replace("/srv/tavern", str(checkout)).replace("/srv/backups", str(tmp_path))
        assert "docker compose exec" in command
        command = command.replace("docker compose", f"docker compose {shlex.join(files)}")
        ran = subprocess.run(
            ["/bin/sh", "-c", command], env={**stack.engine.environment, **stack.settings}, capture_output=True
        )
        assert ran.returncode == 0, ran.stderr.decode()
    [copy] = tmp_path.iterdir()
    assert copy.name in {f"{day}.db" for day in range(1, 8)}
    assert b"is whole" in stack.compose(
        "run", "--rm", "-T", "-v", f"{copy}:/copy.db:ro", "signaling", "check", "/copy.db"
    )


async def test_an_update_keeps_what_there_is(stack: Stack, checkout: Path) -> None:
    """`git pull`, build, up: another image, the same volume."""
    before, image = taverns(stack), stack.container()["Image"]
    source = checkout / "src" / "tavern" / "__init__.py"
    source.write_text(source.read_text() + "\n# The next version.\n")
    stack.compose("build")
    stack.compose("up", "-d", "--wait")
    assert stack.container()["Image"] != image
    assert taverns(stack) == before


def test_a_call_goes_on_through_backup_update_and_restore(stack: Stack, checkout: Path, tmp_path: Path) -> None:
    """Two people talk all the while, and nothing that was written before the copy is lost."""
    with sync_playwright() as playwright, chromium(playwright, tone=write_tone(tmp_path / "tone.wav")) as browser:
        ada = Visitor.arrive(browser.new_context(), url(stack), DIRECT)
        link = ada.create_tavern("Moria")
        ada.join("Ada")
        ben = Visitor.arrive(browser.new_context(), link, DIRECT)
        ben.join("Ben")
        ada.sees_connected("Ben")
        before = taverns(stack)
        copy = stack.compose("exec", "-T", "signaling", "tavern", "backup", "-")
        source = checkout / "src" / "tavern" / "__init__.py"
        source.write_text(source.read_text() + "\n# The version after that.\n")
        stack.compose("build")
        stack.compose("up", "-d", "--wait")
        for visitor, other in ((ada, "Ben"), (ben, "Ada")):
            visitor.sees_connected(other)
            visitor.hears_more()
        stack.compose("stop")
        ada.hears_more()
        stack.compose("run", "--rm", "-T", "signaling", "restore", "-", stdin=copy)
        stack.compose("up", "-d", "--wait")
        for visitor, other in ((ada, "Ben"), (ben, "Ada")):
            visitor.sees_connected(other)
            visitor.hears_more()
        assert taverns(stack) == before


async def test_fifty_people_fit_beside_everything_else(stack: Stack) -> None:
    """In 512 MB and on one CPU, as the overlay here says."""
    idle = memory_mb(stack)
    async with trio.open_nursery() as nursery:

        async def stay(started: trio.abc.SendChannel[None]) -> None:
            async with open_client(url(stack, "ws")) as client:
                await client.ice_servers()
                await started.send(None)
                await trio.sleep_forever()

        send, receive = trio.open_memory_channel[None](50)
        for _ in range(50):
            nursery.start_soon(stay, send)
        for _ in range(50):
            await receive.receive()
        busy = memory_mb(stack)
        nursery.cancel_scope.cancel()
    print(f"memory: {idle:.0f} MB idle, {busy:.0f} MB with 50 people")
    assert busy < MEMORY_MB / 4


async def test_a_proxy_on_the_host_is_believed_where_it_is_said_to_be_one(stack: Stack) -> None:
    """The host comes from the container's gateway: with `TAVERN_TRUSTED_PROXIES=gateway` it may speak for others."""
    forwarded = [(b"X-Forwarded-For", b"203.0.113.77")]
    for believed in (True, False):
        changed = attrs.evolve(
            stack, settings={**stack.settings, "TAVERN_TRUSTED_PROXIES": "gateway" if believed else ""}
        )
        changed.compose("up", "-d", "--wait")
        async with open_websocket(url(stack, "ws"), extra_headers=forwarded) as client:
            await client.send_message('{"type":"get-ice-servers"}')
            await client.get_message()
        assert ("client=203.0.113.77" in changed.log()) == believed


def test_on_the_hosts_network_it_has_the_hosts_ports(engine: Engine, checkout: Path, stack: Stack) -> None:
    stack.compose("stop")
    overlay = checkout / "compose" / "compose.host.yaml"
    port = str(free_port())
    settings = {"PORT": port, "TAVERN_TURN_PORT": str(free_port()), "TAVERN_TURNS_PORT": str(free_port())}
    host = Stack(engine, (stack.files[0], overlay, stack.files[1]), settings)
    host.compose("up", "-d", "--wait")
    with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as response:
        assert json.load(response)["status"] == "ok"
    assert f"relay address    {primary_ipv4()}" in host.log()
    assert "49152-65535 (UDP)" in host.log()
    assert host.container()["NetworkSettings"]["Ports"] in ({}, None)
    host.compose("stop")
    stack.compose("up", "-d", "--wait")


async def test_with_nginx_in_front_it_is_https_and_people_keep_their_addresses(
    engine: Engine, checkout: Path, stack: Stack, tmp_path: Path
) -> None:
    import_nginx(engine, "nginx:stable")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    stack.compose("stop")
    ports = {"TAVERN_HTTP_PORT": str(free_port()), "TAVERN_HTTPS_PORT": str(free_port())}
    settings = {**stack.settings, **ports, "TAVERN_CERT_DIR": str(tmp_path)}
    proxied = Stack(engine, (stack.files[0], checkout / "compose" / "compose.nginx.yaml", stack.files[1]), settings)
    proxied.compose("up", "-d", "--wait")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    at = f"localhost:{ports['TAVERN_HTTPS_PORT']}"
    health = await trio.to_thread.run_sync(first_answer, f"https://{at}/health", context, proxied)
    assert json.loads(health)["status"] == "ok"
    # The address that it is forwarded for is nginx's word; what the client says of itself is not heard.
    forged = [(b"X-Forwarded-For", b"203.0.113.99")]
    async with open_websocket(f"wss://{at}/", ssl_context=context, extra_headers=forged) as client:
        await client.send_message('{"type":"get-ice-servers"}')
        assert "ice-servers" in await client.get_message()
    [line] = [line for line in proxied.log().splitlines() if "peer-connected" in line]
    assert re.search(r"client=172\.31\.255\.1\b", line), line  # the gateway: this engine's proxy hides who it was
    proxied.compose("down")
    stack.compose("up", "-d", "--wait")


AUTHORITY = "authority.example.com"
ACME_OVERRIDE = """
services:
  signaling:
    extra_hosts: ["{authority}:172.31.254.1"]
    environment: {{REQUESTS_CA_BUNDLE: /authority.pem}}
    volumes: ["{ca}:/authority.pem:ro"]
networks:
  default:
    ipam: {{config: [{{subnet: 172.31.254.0/24}}]}}
"""


async def test_with_a_domain_it_gets_its_certificate_and_keeps_it(
    engine: Engine, checkout: Path, stack: Stack, tmp_path: Path
) -> None:
    """compose.acme.yaml as it is, and pebble on the host for an authority."""
    stack.compose("down")  # with its network: this one has to have an address that is known before
    override = tmp_path / "authority.yaml"
    with running_pebble(tmp_path, host=AUTHORITY) as pebble:
        override.write_text(ACME_OVERRIDE.format(authority=AUTHORITY, ca=pebble.ca_bundle))
        settings = {
            **stack.settings,
            "TAVERN_DOMAIN": DOMAIN,
            "TAVERN_EXTERNAL_IP": "127.0.0.1",
            "TAVERN_HTTPS_PORT": str(pebble.tls_port),
            "TAVERN_HTTP_PORT": str(pebble.http_port),
            "TAVERN_ACME_DIRECTORY": pebble.directory_url,
        }
        overlay = checkout / "compose" / "compose.acme.yaml"
        secured = Stack(engine, (stack.files[0], overlay, stack.files[1], override), settings)
        secured.compose("up", "-d", "--wait")
        trusting = pebble.trusting()
        first = await certificate_shown(secured, pebble.tls_port, trusting)
        assert "certificate-obtained" in secured.log()
        turns = ("127.0.0.1", int(settings["TAVERN_TURNS_PORT"]))
        async with open_turn(turns, "tls", "", "", ssl_context=trusting, server_name=DOMAIN) as client:
            await client.binding()
        found = secured.compose("exec", "-T", "signaling", "stat", "-c", "%n %u %a", "/data/acme").decode()
        assert found.split() == ["/data/acme", "10001", "700"]
        secured.compose("up", "-d", "--wait", "--force-recreate")
        assert await certificate_shown(secured, pebble.tls_port, trusting) == first
        assert "certificate-obtained" not in secured.log()
        secured.compose("down")
    stack.compose("up", "-d", "--wait")


async def certificate_shown(secured: Stack, port: int, trusting: ssl.SSLContext) -> bytes:
    """The page's, once it is one that browsers would trust for the domain: until then there is a placeholder."""
    ends_at = time.monotonic() + 20
    while True:
        assert time.monotonic() < ends_at, secured.log()
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            stream = trio.SSLStream(tcp, trusting, server_hostname=DOMAIN)
            await stream.do_handshake()
            shown: bytes = stream.getpeercert(binary_form=True)
        except trio.BrokenResourceError:
            await trio.sleep(0.2)  # it is being asked for
        else:
            return shown
        finally:
            await trio.aclose_forcefully(tcp)


async def test_its_doctor_finds_no_problem_inside(stack: Stack) -> None:
    found = json.loads(stack.compose("exec", "-T", "signaling", "tavern", "doctor", "--json"))
    assert found["ok"], found
    assert {finding["subject"] for finding in found["findings"]} >= {"settings", "database", "disk", "relay's address"}


def test_it_stops_in_time(stack: Stack) -> None:
    started = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - started < 10  # half of the grace period: a slow disk still has the other half
    about = stack.engine.inspect(stack.compose("ps", "-aq", "signaling").decode().strip())
    assert about["State"]["ExitCode"] == 0
    stack.compose("up", "-d", "--wait")


def test_compose_accepts_the_files_as_users_have_them(engine: Engine, checkout: Path) -> None:
    directory = checkout / "compose"
    for overlay in ([], ["compose.host.yaml"], ["compose.nginx.yaml"], ["compose.acme.yaml"]):
        files = [part for name in ["docker-compose.yml", *overlay] for part in ("-f", str(directory / name))]
        assert engine.docker("compose", *files, "config", "-q") == b""


def first_answer(address: str, context: ssl.SSLContext, stack: Stack) -> bytes:
    """Of nginx, whose container counts as up before it listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5, context=context) as response:
                return bytes(response.read())
        except OSError as error:
            assert time.monotonic() < deadline, f"{error}: {stack.compose('logs', 'nginx').decode()}"
            time.sleep(0.1)


def memory_mb(stack: Stack) -> float:
    said = stack.engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", stack.container()["Id"]).decode()
    found = re.match(r"([\d.]+)([KMG])iB", said)
    assert found is not None, said
    return float(found[1]) * {"K": 2**-10, "M": 1.0, "G": 2.0**10}[found[2]]
