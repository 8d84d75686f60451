"""What is measured of one server that has just been started. Each returns figures by name."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median

import attrs

from benchmarks.lacks import ServerFailed
from benchmarks.signaling.clients import Client, Crowd, frame, join_frame
from benchmarks.signaling.hostile import KINDS as HOSTILE
from benchmarks.signaling.servers import Server

Figures = dict[str, float]

SIZES = (1500, 200)
CALL_RATE_PER_S = 160  # 8 clients with 20 messages a second each, which is below their rate
_MARK = b'"candidate":"S'
_DIGITS = 12


@attrs.frozen(kw_only=True)
class Scale:
    """How much is done."""

    seconds: float = 4.0
    members: int = 400
    rate_per_s: int = 4000
    idle: int = 5000
    crowd: int = 10_000
    connects: int = 3000
    storm: int = 1000
    settle_s: float = 1.0
    call_s: float = 8.0
    hostile_start_s: float = 2.0


QUICK = Scale(
    seconds=0.3,
    members=16,
    rate_per_s=500,
    idle=50,
    crowd=100,
    connects=50,
    storm=16,
    settle_s=0.1,
    call_s=0.2,
    hostile_start_s=0.4,
)


def messages(server: Server, scale: Scale) -> Figures:
    """CPU and latency of a relayed message where one comes at a time, and what can be had at most."""
    found: Figures = {}
    with Crowd(server.port) as crowd:
        channels = crowd.join(crowd.open(scale.members))
        for size in SIZES:
            run = Relaying(crowd, channels, size)
            run.pace(scale.rate_per_s, 0.5)  # what is compiled or cached on the way is
            run.latencies_s.clear()
            found |= _measured(server, size, run, lambda run=run: run.pace(scale.rate_per_s, scale.seconds))  # type: ignore[misc]
            latencies_ms = sorted(1000 * latency_s for latency_s in run.latencies_s)
            found[f"p50 ms, {size} B"] = median(latencies_ms)
            found[f"p99 ms, {size} B"] = latencies_ms[int(len(latencies_ms) * 0.99)]
            began_at, before = time.perf_counter(), run.received
            cpu_before = server.cpu_s()
            run.saturate(scale.seconds)
            count = run.received - before
            found[f"messages/s, {size} B"] = count / (time.perf_counter() - began_at)
            found[f"CPU us saturated, {size} B"] = (server.cpu_s() - cpu_before) / count * 1e6
    return found


def _measured(server: Server, size: int, run: Relaying, work: Callable[[], None]) -> Figures:
    before, cpu_before = run.received, server.cpu_s()
    work()
    return {f"CPU us, {size} B": (server.cpu_s() - cpu_before) / (run.received - before) * 1e6}


def memory(server: Server, scale: Scale) -> Figures:
    """Of an idle connection: one that has only connected, and one that is in a channel."""
    with Crowd(server.port) as crowd:
        crowd.open(50)
        time.sleep(scale.settle_s)
        empty = server.resident_bytes()
        clients = crowd.open(scale.idle)
        time.sleep(scale.settle_s)
        connected = server.resident_bytes()
        crowd.join(clients)
        time.sleep(scale.settle_s)
        joined = server.resident_bytes()
    return {
        "KB, connected": (connected - empty) / scale.idle / 1000,
        "KB, in a channel": (joined - empty) / scale.idle / 1000,
    }


def connects(server: Server, scale: Scale) -> Figures:
    """Opened, upgraded, and gone again."""
    with Crowd(server.port) as crowd:
        crowd.drop(crowd.open(50))
        began_at, cpu_before = time.perf_counter(), server.cpu_s()
        for _ in range(scale.connects // 50):
            crowd.drop(crowd.open(50, at_once=50))
        wall_s, cpu_s = time.perf_counter() - began_at, server.cpu_s() - cpu_before
    return {"connects/s": scale.connects / wall_s, "CPU us a connect": cpu_s / scale.connects * 1e6}


def storm(server: Server, scale: Scale) -> Figures:
    """All join their channels at once; each pair exchanges an offer, an answer and five candidates each."""
    with Crowd(server.port) as crowd:
        clients = crowd.open(scale.storm)
        channels = [clients[start : start + 8] for start in range(0, len(clients), 8)]
        places = [crowd.create_tavern(members[0]) for members in channels]
        run = _Storm()
        for members in channels:
            for number, member in enumerate(members):
                member.key = f"{id(member):016x}{number:048x}"
                run.take_part(member)
        began_at, cpu_before = time.perf_counter(), server.cpu_s()
        for members, where in zip(channels, places, strict=True):
            for member in members:
                member.send(join_frame(where, member.key))
        crowd.run_until(lambda: run.received == run.expected(channels))
        wall_s, cpu_s = time.perf_counter() - began_at, server.cpu_s() - cpu_before
    return {"storm s": wall_s, "storm CPU s": cpu_s}


def crowded(server: Server, scale: Scale) -> Figures:
    """CPU of a message of 50 active clients, alone and beside thousands that are idle."""
    found: Figures = {}
    with Crowd(server.port) as crowd:
        channels = crowd.join(crowd.open(min(48, scale.members)))
        run = Relaying(crowd, channels, 200)
        run.pace(scale.rate_per_s // 2, 0.5)

        def work() -> None:
            run.pace(scale.rate_per_s // 2, scale.seconds)

        found["CPU us, 50 open"] = _measured(server, 200, run, work)["CPU us, 200 B"]
        crowd.join(crowd.open(scale.crowd))
        time.sleep(scale.settle_s)
        found["CPU us, 10,000 open"] = _measured(server, 200, run, work)["CPU us, 200 B"]
    found["times"] = found["CPU us, 10,000 open"] / found["CPU us, 50 open"]
    return found


class Relaying:
    """Each member sends candidates to the next one of its channel; what arrives is checked and counted."""

    def __init__(self, crowd: Crowd, channels: list[list[Client]], size: int) -> None:
        self._crowd = crowd
        self._sent_at: dict[int, float] = {}
        self._next = 0
        self.received = 0
        self.latencies_s: list[float] = []
        self._refill = False
        self._senders: list[tuple[Client, bytes, bytes]] = []
        for members in channels:
            for number, member in enumerate(members):
                target = members[(number + 1) % len(members)]
                self._senders.append((member, *self._parts(target, size)))
                previous = members[number - 1]
                member.on_message = self._receiver(previous.key.encode(), (member, *self._parts(target, size)))
        self._order = cycle(self._senders)

    def _parts(self, target: Client, size: int) -> tuple[bytes, bytes]:
        """A whole frame of `size` bytes of JSON, around the number that is put in."""
        candidate = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.1 rport 0"
        text = {"type": "ice-candidate", "candidate": "S", "target": target.key}
        bare = json.dumps(text, separators=(",", ":")).encode()
        room = max(size - len(bare) - _DIGITS, 0)
        filling = (candidate + " generation 0 ufrag EsAw network-id 1" * (room // 30)).ljust(room)[:room]
        head, _, tail = bare.partition(b'"S"')
        before = head + b'"S'
        after = filling.encode() + b'"' + tail
        whole = frame(before + b"0" * _DIGITS + after)
        position = whole.index(before) + len(before)
        return whole[:position], whole[position + _DIGITS :]

    def _receiver(self, sender: bytes, answer: tuple[Client, bytes, bytes]) -> Callable[[bytes], None]:
        def receive(payload: bytes) -> None:
            at = payload.find(_MARK)
            if at < 0 or sender not in payload[:at]:
                raise ServerFailed(f"something else came: {payload[:200]!r}")
            number = int(payload[at + len(_MARK) : at + len(_MARK) + _DIGITS])
            self.latencies_s.append(time.perf_counter() - self._sent_at.pop(number))
            self.received += 1
            if self._refill:
                self._send(answer)

        return receive

    def _send(self, sender: tuple[Client, bytes, bytes]) -> None:
        client, head, tail = sender
        self._next += 1
        self._sent_at[self._next] = time.perf_counter()
        client.send(head + b"%012d" % self._next + tail)

    def pace(self, rate_per_s: int, seconds: float) -> None:
        """So many a second, one after the other from all; all have arrived on return."""
        began_at, sent = time.perf_counter(), 0
        while (now := time.perf_counter() - began_at) < seconds:
            while sent < now * rate_per_s:
                self._send(next(self._order))
                sent += 1
            self._crowd.poll(0.0005)
        self._crowd.run_until(lambda: not self._sent_at)

    def saturate(self, seconds: float) -> None:
        """What arrives is answered with the next one: a message for each client is always under way."""
        self._refill = True
        for sender in self._senders:
            self._send(sender)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._crowd.poll(0.01)
        self._refill = False
        self._crowd.run_until(lambda: not self._sent_at)


class _Storm:
    """Clients that do what browsers do when somebody comes: those who are there call him."""

    SDP = "v=0\r\n" + "a=rtpmap:111 opus/48000/2\r\n" * 70  # some 1,900 bytes
    CANDIDATE = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.1 rport 0"

    def __init__(self) -> None:
        self.received = 0

    def expected(self, channels: list[list[Client]]) -> int:
        """Of each pair an offer, an answer, and twice five candidates."""
        return sum(len(members) * (len(members) - 1) // 2 * 12 for members in channels)

    def take_part(self, client: Client) -> None:
        def receive(payload: bytes) -> None:
            if payload.startswith(b'{"type":"ice-candidate"'):
                self.received += 1
                return
            message = json.loads(payload)
            if message["type"] == "peer-joined-channel":
                self._say(client, "offer", message["peer"]["publicKeyHex"])
            elif message["type"] == "offer":
                self.received += 1
                self._say(client, "answer", message["from"])
            elif message["type"] == "answer":
                self.received += 1
            elif message["type"] != "channel-joined":
                raise ServerFailed(f"something else came: {payload[:200]!r}")

        client.on_message = receive

    def _say(self, client: Client, kind: str, target: str) -> None:
        candidate = json.dumps({"type": "ice-candidate", "candidate": self.CANDIDATE, "target": target}).encode()
        description = json.dumps({"type": kind, "sdp": self.SDP, "target": target}).encode()
        client.send(frame(description) + frame(candidate) * 5)


def hostile(server: Server, scale: Scale) -> Figures:
    """What each kind of hostile client adds to the p99 of a call of 8 beside it, in ms."""
    found: Figures = {}
    with Crowd(server.port) as crowd:
        run = Relaying(crowd, crowd.join(crowd.open(8)), 200)

        def p99_ms() -> float:
            run.latencies_s.clear()
            run.pace(CALL_RATE_PER_S, scale.call_s)
            return 1000 * sorted(run.latencies_s)[int(len(run.latencies_s) * 0.99)]

        run.pace(CALL_RATE_PER_S, 0.5)
        found["call p99 ms alone"] = alone = p99_ms()
        for kind in HOSTILE:
            command = [sys.executable, "-m", "benchmarks.signaling.hostile", str(server.port), kind]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                time.sleep(scale.hostile_start_s)
                found[f"added ms, {kind}"] = p99_ms() - alone
                if process.poll() is not None:
                    raise ServerFailed(f"the {kind} ended ({process.returncode})")
            finally:
                process.kill()
                process.wait()
    return found


MEASURES: dict[str, Callable[[Server, Scale], Figures]] = {
    "messages": messages,
    "memory": memory,
    "connects": connects,
    "storm": storm,
    "crowded": crowded,
    "hostile": hostile,
}
LIMITED = frozenset({"hostile"})
"""What is measured with the rates that servers have by themselves."""
