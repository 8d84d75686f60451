"""The results as Markdown that is as well read as plain text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.relay.bench import PACED_PER_S, Options
from benchmarks.relay.figures import Figures
from benchmarks.relay.targets import Target, targets

_SKIPPED_SHARE = 0.01
_SATURATED_SHARE = 0.9
_SHOWN_ORDER = ("coturn", "python", "native", "native-shared", "echo")
_TITLES = {
    "coturn": "coturn, one relay thread",
    "python": "ours, Python data path",
    "native": "ours, native data path",
    "native-shared": "ours, native, 64 shared ports",
    "echo": "C echo: the kernel's limit",
}


def report(figures: Figures, options: Options, machine: Sequence[tuple[str, str]]) -> str:
    """All tables, the targets, what got lost, what to know, and the machine."""
    parts = [
        _packets(figures, options),
        _latency(figures, options),
        _indications(figures, options),
        _partners(figures),
        _allocations(figures),
        _held(figures),
        _busy(figures),
        _targets(figures),
        _losses(figures),
        _list("To know", list(figures.notes)),
        _list("Machine", [f"{name}: {value}" for name, value in machine]),
    ]
    return "\n".join(part for part in parts if part)


def _packets(figures: Figures, options: Options) -> str:
    sizes = [size for size in options.sizes if figures.servers(f"up/{size}")]
    paced = [size for size in options.sizes if figures.servers(f"paced/{size}")]
    header = [f"N={size}" for size in sizes] + [f"{PACED_PER_S:,}/s, N={size}" for size in paced]
    measures = [f"{way}/{size}" for size in sizes for way in ("up", "down")] + [f"paced/{size}" for size in paced]
    rows = []
    for server in _ordered(figures.servers(*measures)):
        cells = [_pair(figures, server, f"up/{size}", f"down/{size}") for size in sizes]
        cells += [_single(figures, server, f"paced/{size}") for size in paced]
        rows.append([_TITLES[server], *cells])
    lead = (
        "Microseconds of the server's CPU (user and system) for each packet of 120 bytes as ChannelData, up / down: "
        f"medians of {options.rounds} {'rounds' if options.rounds > 1 else 'round'}. "
        "In brackets: the median of the ratios to coturn in the same round."
    )
    return _section("CPU per relayed packet", lead, ["", *header], rows)


def _latency(figures: Figures, options: Options) -> str:
    sizes = [size for size in options.sizes if figures.servers(f"p99-paced/{size}")]
    header = [f"N={size}, {name}" for size in sizes for name in ("p50", "p99")]
    measures = [f"{name}-paced/{size}" for size in sizes for name in ("p50", "p99")]
    rows = [
        [_TITLES[server], *(_single(figures, server, measure, digits=0) for measure in measures)]
        for server in _ordered(figures.servers(*measures))
    ]
    lead = f"Microseconds from a packet's sending to its arrival, {PACED_PER_S:,} packets/s, evenly spaced, up."
    return _section("Latency", lead, ["", *header], rows)


def _indications(figures: Figures, options: Options) -> str:
    sizes = [size for size in options.sizes if figures.servers(f"indication-up/{size}")]
    rows = []
    for server in _ordered(figures.servers(*(f"indication-up/{size}" for size in sizes))):
        cells = []
        for size in sizes:
            values = (figures.median(f"indication-{way}/{size}", server) for way in ("up", "down"))
            ratios = (
                figures.ratio(f"indication-{way}/{size}", server, f"{way}/{size}", server) for way in ("up", "down")
            )
            cells.append(f"{' / '.join(map(_number, values))} ({' / '.join(map(_number, ratios))})")
        rows.append([_TITLES[server], *cells])
    lead = "CPU microseconds for each packet, up / down. In brackets: to the same server's own ChannelData."
    return _section("Send and Data indications", lead, ["", *(f"N={size}" for size in sizes)], rows)


def _partners(figures: Figures) -> str:
    measures = figures.measures("partners/")
    rows = [
        [_TITLES[server], *(_single(figures, server, measure) for measure in measures)]
        for server in _ordered(figures.servers(*measures))
    ]
    lead = "CPU microseconds for each packet from a client to another client, each with an allocation."
    return _section("Both sides relayed", lead, ["", *(f"N={m.split('/')[1]}" for m in measures)], rows)


def _allocations(figures: Figures) -> str:
    rows = [
        [
            _TITLES[server],
            _single(figures, server, "allocations", digits=0),
            _single(figures, server, "allocation-cpu", digits=0),
        ]
        for server in _ordered(figures.servers("allocations"))
    ]
    lead = "Handshakes with authentication (Allocate, 401, Allocate, success), 64 clients at a time, one core."
    return _section("Allocations", lead, ["", "a second", "CPU us of each"], rows)


def _held(figures: Figures) -> str:
    rows = []
    for server in _ordered(figures.servers("memory-few", "memory-many")):
        row = [_TITLES[server]]
        for label in ("few", "many"):
            row.append(_number(figures.median(f"memory-{label}", server), 1))
            row.append(_pair(figures, server, f"held-up-{label}", f"held-down-{label}"))
        ratios = (figures.ratio(f"held-{way}-many", server, f"held-{way}-few", server) for way in ("up", "down"))
        rows.append([*row, " / ".join(map(_number, ratios))])
    lead = (
        "Growth of the process's resident memory for each idle allocation: of the first ones, and of those that come "
        "on top. CPU microseconds for each packet of all held ones in turn, up / down, and the ratio of the two."
    )
    header = ["", "few: KiB", "few: us", "very many: KiB", "very many: us", "to few"]
    return _section("Many allocations held", lead, header, rows)


def _busy(figures: Figures) -> str:
    columns = [(label, kind) for label in ("free", "one") for kind in ("idle", "busy", "added")]
    rows = [
        [_TITLES[server], *(_number(figures.median(f"{kind}-p99-{label}", server), 0) for label, kind in columns)]
        for server in _ordered(figures.servers(*(f"added-p99-{label}" for label in ("free", "one"))))
    ]
    places = {"free": "two cores", "one": "one core"}
    lead = (
        "p99 latency in microseconds while the main thread computes for 5 ms of every 10. With two cores on a machine "
        "that has no more, the second is also the load generator's, which then sleeps between packets."
    )
    header = ["", *(f"{places[label]}: {kind}" for label, kind in columns)]
    return _section("Beside a busy main thread", lead, header, rows)


def _targets(figures: Figures) -> str:
    rows = [
        [target.text, f"{'>=' if target.at_least else '<='} {target.limit:g}{target.unit}", *_outcome(target)]
        for target in targets(figures)
    ]
    return _section("Targets", "", ["", "wanted", "measured", ""], rows)


def _outcome(target: Target) -> tuple[str, str]:
    if target.measured is None:
        return "-", "not measured"
    return f"{target.measured:.2f}{target.unit}", "reached" if target.is_reached else "MISSED"


def _losses(figures: Figures) -> str:
    lines = []
    for (measure, server), tally in figures.tallies.items():
        bad = [("lost", tally.lost), ("misdelivered", tally.misdelivered), ("duplicated", tally.duplicated)]
        if any(count for _, count in bad):
            lines.append(f"{measure}, {server}: {', '.join(f'{n} {what}' for what, n in bad)} of {tally.sent}")
        if tally.skipped > tally.sent * _SKIPPED_SHARE:
            lines.append(f"{measure}, {server}: the generator had no time for {tally.skipped} beside {tally.sent}")
    lines += _held_back(figures)
    sent = sum(tally.sent for tally in figures.tallies.values())
    if sent == 0:
        return ""
    return _list("Losses and limits", lines or [f"None of {sent:,} packets was lost, misdelivered or duplicated."])


def _held_back(figures: Figures) -> Iterator[str]:
    """Where a server had time to spare at full speed: waking up costs, so that its figure is not the best it can."""
    for measure in figures.measures("share-"):
        shares = {server: figures.median(measure, server) for server in figures.servers(measure)}
        low = [f"{server} {share:.0%}" for server, share in shares.items() if share and share < _SATURATED_SHARE]
        if low:
            yield f"{measure.removeprefix('share-')}: something else held servers back, which used of their core: " + (
                ", ".join(low)
            )


def _ordered(servers: Sequence[str]) -> Iterator[str]:
    return (server for server in _SHOWN_ORDER if server in servers)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _single(figures: Figures, server: str, measure: str, digits: int = 2) -> str:
    value = figures.median(measure, server)
    ratio = figures.ratio(measure, server, measure, "coturn")
    text = _number(value, digits)
    return text if ratio is None or server == "coturn" else f"{text} ({ratio:.2f})"


def _pair(figures: Figures, server: str, up: str, down: str) -> str:
    ratios = [figures.ratio(measure, server, measure, "coturn") for measure in (up, down)]
    text = f"{_number(figures.median(up, server))} / {_number(figures.median(down, server))}"
    return text if None in ratios or server == "coturn" else f"{text} ({' / '.join(map(_number, ratios))})"


def _section(title: str, lead: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [f"## {title}", "", *([lead, ""] if lead else []), _row(header, widths)]
    lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += [_row(row, widths) for row in rows]
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines), ""]) if lines else ""
