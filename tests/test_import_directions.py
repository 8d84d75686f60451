"""pure <- shell <- app: the layers of the package, held by reading every module's imports."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "tavern"

# Modules and packages that hold decisions: no I/O, no clock, no scheduler.
PURE = frozenset(
    {
        "__init__",
        "acme.schedule",
        "addresses",
        "config",
        "errors",
        "host_names",
        "setting_values",
        "stun",
        "turn",
        "store.base",
        "store.index",
        "signaling.access",
        "signaling.address_hashes",
        "signaling.entry",
        "signaling.presence",
        "signaling.proofs",
        "signaling.relaying",
        "signaling.requests",
        "signaling.resume_tokens",
        "signaling.watchers",
        "signaling.limits",
        "signaling.messages",
        "signaling.rooms",
        "signaling.candidates",
        "signaling.ice",
        "signaling.observer",
        "signaling.transport",
        "web.client_hello",
        "web.frames",
        "web.origins",
        "web.proxies",
        "client.events",
        "client.objects",
        "control.messages",
        "doctor.findings",
    }
)
PURE_STANDARD_LIBRARY_DENIED = frozenset(
    {"socket", "ssl", "select", "selectors", "threading", "time", "sqlite3", "asyncio", "subprocess", "signal"}
)
PURE_THIRD_PARTY_ALLOWED = frozenset({"attrs", "cattrs", "cryptography", "msgspec"})
# The one importer of all shells, what starts it, and what an operator asks for.
TOP = frozenset(
    {
        "app",
        "announcement",
        "listening",
        "startup",
        "cli",
        "data_commands",
        "domain_addresses",
        "doctor",
        "exposition",
        "notify",
        "operations",
        "operator_commands",
        "readiness",
        "__main__",
    }
)
# Each shell package may import the pure modules, itself, and these shells.
SHELL_MAY_IMPORT = {
    "acme": frozenset({"logs", "store", "web"}),
    "client": frozenset[str](),
    "control": frozenset({"logs"}),
    "logs": frozenset[str](),
    "metrics": frozenset[str](),
    "relay": frozenset({"logs"}),
    "store": frozenset({"logs"}),
    "signaling": frozenset({"logs", "metrics"}),
    "web": frozenset({"logs", "metrics", "signaling"}),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_pure(name: str) -> bool:
    return name in PURE or name.split(".")[0] in PURE


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "tavern" or (SOURCE / node.module.replace("tavern.", "").replace(".", "/")).is_dir():
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                names.add(node.module)
    return names


def violations() -> list[str]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = module_name(path)
        package = name.split(".")[0]
        for target in imported(path):
            top, _, inner = target.partition(".")
            if top != "tavern":
                if is_pure(name) and (
                    top in PURE_STANDARD_LIBRARY_DENIED or (top in THIRD_PARTY and top not in PURE_THIRD_PARTY_ALLOWED)
                ):
                    found.append(f"{name} is pure and imports {target}")
                continue
            if inner in {"", "__version__"} or package in TOP:
                continue
            inner_package = inner.split(".")[0]
            pure_target = any(is_pure(prefix) for prefix in prefixes(inner))
            if pure_target or inner_package == package:
                if is_pure(name) and not pure_target:
                    found.append(f"{name} is pure and imports {target}")
                continue
            if is_pure(name):
                found.append(f"{name} is pure and imports {target}")
            elif inner_package not in SHELL_MAY_IMPORT[package]:
                found.append(f"{name} imports {target}")
    return found


def prefixes(dotted: str) -> list[str]:
    parts = dotted.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


THIRD_PARTY = frozenset(
    {
        "acme",
        "anyio",
        "attrs",
        "cattrs",
        "h11",
        "hypercorn",
        "ifaddr",
        "josepy",
        "msgspec",
        "requests",
        "starlette",
        "trio",
        "trio_websocket",
        "wsproto",
    }
)


def test_imports_point_from_shells_to_pure_modules_and_only_the_app_knows_all() -> None:
    assert violations() == []


def test_every_pure_name_exists() -> None:
    for name in PURE:
        path = SOURCE / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), name
