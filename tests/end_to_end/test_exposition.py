"""What Prometheus is told, read with its own library, of a server that is in use."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tavern.client import Keypair, ServerError, open_client
from tests.end_to_end.server import RunningServer, running_server

pytestmark = pytest.mark.end_to_end
DASHBOARD = Path(__file__).parents[2] / "compose" / "grafana.json"
TEXT = "text/plain;version=0.0.4"
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
"""What Prometheus sends."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp=tmp_path_factory.mktemp("data")) as server:
        yield server


def scrape(server: RunningServer, accept: str) -> tuple[str, str]:
    """Media type and text."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.http_port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.headers["Content-Type"], response.read().decode()


def samples(server: RunningServer) -> dict[str, float]:
    """By name and labels, as PromQL writes them."""
    return {
        name(sample.name, sample.labels): sample.value
        for family in parse_text(scrape(server, TEXT)[1])
        for sample in family.samples
    }


def name(metric: str, labels: dict[str, str]) -> str:
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{metric}{{{shown}}}" if shown else metric


async def test_what_happens_is_counted(server: RunningServer) -> None:
    before = samples(server)
    async with open_client(server.ws_url) as alice:
        tavern = await alice.create_tavern("Pony")
        await alice.join_channel(tavern.id, tavern.channels[0].id, Keypair.generate().identity("Alice"))
        with pytest.raises(ServerError):
            await alice.tavern_info("nowhere")
        after = samples(server)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["tavern_peers"] == grown["tavern_active_taverns"] == grown["tavern_taverns"] == 1
    assert grown["tavern_messages_total"] == 3
    assert grown['tavern_errors_total{code="tavern-not-found"}'] == 1
    assert grown["tavern_store_commit_seconds_count"] >= 1
    assert after["tavern_turn_allocations"] == 0
    assert after['tavern_turn_dropped_packets_total{reason="no_permission"}'] == 0
    assert after["process_resident_memory_bytes"] > 10_000_000
    assert after['tavern_build_info{version="0.1.0"}'] == 1


def test_what_prometheus_asks_for_it_gets(server: RunningServer) -> None:
    media_type, text = scrape(server, PROMETHEUS)
    assert media_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"tavern_peers", "tavern_messages"}
    assert scrape(server, TEXT)[0].startswith("text/plain")


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/html,application/xhtml+xml,*/*;q=0.8"])
def test_everybody_else_gets_json_as_before(server: RunningServer, accept: str) -> None:
    media_type, text = scrape(server, accept)
    assert media_type == "application/json"
    assert "connectedPeers" in json.loads(text)


async def test_nobody_is_named(server: RunningServer) -> None:
    async with open_client(server.ws_url) as alice:
        tavern = await alice.create_tavern("A name that nobody else has")
        identity = Keypair.generate().identity("Alice of Bree")
        await alice.join_channel(tavern.id, tavern.channels[0].id, identity)
        with pytest.raises(ServerError):
            await alice.tavern_info("x" * 50)
        await alice.send({"type": "a type that nobody else has"})
        with pytest.raises(ServerError):
            await alice.tavern_info("y" * 50)
        said = scrape(server, TEXT)[1]
    for private in ("nobody else has", "Bree", tavern.id, identity.publicKeyHex, "xxx"):
        assert private not in said


def test_the_dashboard_shows_what_there_is(server: RunningServer) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    known = {sample.partition("{")[0] for sample in samples(server)}
    # What has no sample until it happens.
    known |= {f"{family.name}_total" for family in parse_text(scrape(server, TEXT)[1]) if family.type == "counter"}
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {metric for expression in shown for metric in re.findall(r"\b(?:tavern|process)_\w+", expression)}
    assert len(used) > 15
    assert used <= known
    assert all('{instance="$instance"}' in expression for expression in shown)
