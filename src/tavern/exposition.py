"""The server's figures as Prometheus reads them. No label is made of what a user named himself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tavern import __version__
from tavern.metrics import Distribution, Metrics
from tavern.relay.service import Relay
from tavern.signaling.registry import Registry
from tavern.store.base import Store
from tavern.store.sqlite import SqliteStore

LAG_INTERVAL_S = 1.0


class Exposition(Collector):
    """Made of what others count, at each request."""

    def __init__(self, metrics: Metrics, registry: Registry, store: Store, relay: Relay) -> None:
        self._metrics = metrics
        self._registry = registry
        self._store = store
        self._relay = relay
        # Its own: the library's global one would be shared by all servers of one process.
        self._families = CollectorRegistry(auto_describe=False)
        self._families.register(self)
        ProcessCollector(registry=self._families)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text in the format that an Accept header prefers, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._families), media_type

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tavern_build", "The version that runs", value={"version": __version__})
        yield from self._signaling()
        yield from self._relayed()
        yield from self._stored()

    def _signaling(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _gauge("tavern_peers", "Connected clients, and those that may come back", metrics.connected_peers)
        yield _gauge("tavern_active_taverns", "Taverns with somebody in them", self._registry.presence.active_taverns())
        yield _gauge("tavern_taverns", "Taverns that exist", self._store.tavern_count())
        yield _counter("tavern_messages", "Messages of clients", metrics.messages.total)
        yield _by_label("tavern_errors", "Errors that clients were answered", "code", metrics.errors)
        yield _by_label("tavern_failures", "Bugs of the server that a wall has caught", "wall", metrics.failures)
        yield _counter(
            "tavern_refused_connections", "Connections that there was no place for", metrics.refused_connections
        )
        yield _histogram("tavern_event_loop_lag_seconds", "How late the event loop comes", metrics.loop_lag_s)

    def _relayed(self) -> Iterator[Metric]:
        now = self._relay.statistics()
        yield _gauge("tavern_turn_allocations", "Relayed addresses that are allocated", now.allocations)
        directions = {
            "from_clients": (now.packets_from_clients, now.bytes_from_clients),
            "to_clients": (now.packets_to_clients, now.bytes_to_clients),
        }
        packets = {direction: figures[0] for direction, figures in directions.items()}
        data = {direction: figures[1] for direction, figures in directions.items()}
        yield _by_label("tavern_turn_packets", "Packets that were relayed", "direction", packets)
        yield _by_label("tavern_turn_bytes", "Their application data, in bytes", "direction", data)
        yield _by_label("tavern_turn_dropped_packets", "Packets that went nowhere", "reason", now.drops)
        yield _counter(
            "tavern_turn_challenges", "Answers to requests without valid credentials", now.unauthenticated_answers
        )
        yield _counter(
            "tavern_turn_suppressed_challenges",
            "Such answers that a source's limit held back",
            now.unauthenticated_suppressed,
        )
        yield _counter(
            "tavern_turn_auth_failures", "Requests with credentials that are wrong or over", now.rejected_credentials
        )
        yield _gauge("tavern_turn_month_bytes", "What the relay sent this month, headers included", now.usage.used)
        yield _gauge("tavern_turn_month_budget_bytes", "What it may send in a month; 0: any amount", now.usage.budget)

    def _stored(self) -> Iterator[Metric]:
        queued = self._store.queued_writes if isinstance(self._store, SqliteStore) else 0
        yield _gauge("tavern_store_queued_writes", "Writes that wait for the disk", queued)
        yield _histogram("tavern_store_commit_seconds", "How long a transaction takes", self._metrics.commits_s)


async def watch_loop_lag(metrics: Metrics) -> None:
    """Sees how late the event loop comes back, again and again, until cancelled."""
    while True:
        wanted = trio.current_time() + LAG_INTERVAL_S
        await trio.sleep_until(wanted)
        metrics.loop_lag_s.observe(max(trio.current_time() - wanted, 0.0))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _by_label(name: str, text: str, label: str, values: Any) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _histogram(name: str, text: str, values: Distribution) -> Metric:
    bounds = [*(str(bound) for bound in values.bounds), "+Inf"]
    buckets = list(zip(bounds, values.cumulative(), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.sum)
