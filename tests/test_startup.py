"""What is decided at start, and the command line around it: every fault of the machine is one clear line."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tavern.config import DEV_SECRET, load_settings
from tavern.errors import StartupError
from tavern.relay.addresses import default_gateways
from tavern.startup import Decisions, decide, server_certificate

SOURCE = Path(__file__).parents[1] / "src"


def run_python(
    code: str, *, output: int = subprocess.PIPE, errors: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        text=True,
        timeout=20,
    )


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    ended = run_python(
        "import sys; from tavern import cli\n"
        "cli._parser = lambda: sys.exit(cli._say('kept in /K\\u00f6ln/\\udcff'))\n"
        "cli.main([])",
        PYTHONIOENCODING="ascii",
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "kept in /K\\xf6ln/\\udcff\n", "")


def test_a_full_disk_behind_the_output_is_told_once_and_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_python(
            "import sys; from tavern import cli\ncli._say('one'); cli._say('two'); sys.exit(7)", output=full.fileno()
        )
    assert ended.stderr == "tavern: cannot write to standard output (No space left on device): serving without it\n"
    assert ended.returncode == 7


def test_a_full_disk_behind_the_complaints_keeps_the_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_python(
            "import sys; from tavern.cli import main; sys.exit(main(['serve', '--port=x']))", errors=full.fileno()
        )
    assert ended.returncode == 2


def test_no_output_at_all_ends_nothing() -> None:
    ended = run_python(
        "import os, sys; sys.stdout = None; from tavern import cli\n"
        "cli._parser = lambda: sys.exit(cli._say('one'))\n"
        "cli.main([])"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_ctrl_c_while_modules_load_ends_quietly(tmp_path: Path) -> None:
    """The first of the slow imports is a stand-in that is interrupted."""
    for name in ("trio", "attrs", "cattrs"):
        (tmp_path / f"{name}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    for arguments in (["serve"], ["--help"]):
        ended = run_python(
            f"import sys; from tavern.cli import main; sys.exit(main({arguments}))",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{SOURCE}",
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_inside_a_nursery_ends_quietly() -> None:
    ended = run_python(
        "import sys; from tavern import cli\n"
        "def serve(environment): raise BaseExceptionGroup('nursery', [KeyboardInterrupt()])\n"
        "cli._serve = serve; sys.exit(cli.main(['serve']))"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


async def decided(**variables: str) -> Decisions:
    """On a machine whose name server is not asked."""
    settings = load_settings({"TAVERN_EXTERNAL_IP": "203.0.113.7", **variables})
    return await decide(settings, variables)


async def refusal(**variables: str) -> str:
    """The one line that the start ends with."""
    with pytest.raises(StartupError) as caught:
        await decided(**variables)
    [line] = str(caught.value).splitlines()
    return line


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME whom the machine does not know, as containers run them."""

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
async def test_without_a_home_a_server_starts_that_needs_no_directory(tmp_path: Path) -> None:
    await decided(TAVERN_STORE="memory")
    await decided(TAVERN_STORE="memory", TAVERN_DOMAIN="tavern.example.com", TAVERN_TURN_SECRET="s" * 16)
    kept = await decided(TAVERN_DB_PATH=str(tmp_path / "tavern.db"), TAVERN_DOMAIN="tavern.example.com")
    assert kept.turn_secrets == ((tmp_path / "turn-secret").read_text().strip(),)
    kept = await decided(XDG_DATA_HOME=str(tmp_path))
    assert kept.db_path == tmp_path / "tavern" / "tavern.db"


SET, BEFORE = "s" * 16, "p" * 16


@pytest.mark.parametrize(
    ("given", "secrets", "static"),
    [
        ({"TAVERN_TURN_SECRET": SET}, (SET,), True),
        ({"TAVERN_TURN_SECRET": SET, "TAVERN_TURN_PREVIOUS_SECRET": BEFORE}, (SET, BEFORE), True),
        ({"TAVERN_TURN_SECRET": SET, "TAVERN_TURN_REST": "off"}, (SET,), False),
        ({"TAVERN_TURN_PREVIOUS_SECRET": BEFORE}, (None, BEFORE), True),
        ({"TAVERN_TURN_SECRET": DEV_SECRET}, (None,), False),
        ({}, (None,), False),
    ],
)
async def test_only_an_operators_own_secret_lets_others_compute_credentials(
    given: dict[str, str], secrets: tuple[str | None, ...], static: bool
) -> None:
    decisions = await decided(TAVERN_STORE="memory", **given)
    assert decisions.static_credentials is static
    assert len(decisions.turn_secrets) == len(secrets)
    for found, expected in zip(decisions.turn_secrets, secrets, strict=True):
        assert found == expected if expected else found not in {SET, BEFORE, DEV_SECRET}


async def test_a_secret_that_was_made_for_this_run_is_another_each_time() -> None:
    one, two = await decided(TAVERN_STORE="memory"), await decided(TAVERN_STORE="memory")
    assert one.turn_secrets != two.turn_secrets
    assert len(one.turn_secrets[0]) >= 40


@pytest.mark.usefixtures("homeless")
async def test_without_a_home_the_missing_directory_is_named() -> None:
    line = await refusal()
    for word in ("home directory", "HOME", "XDG_DATA_HOME", "TAVERN_DB_PATH"):
        assert word in line
    line = await refusal(TAVERN_STORE="memory", TAVERN_DOMAIN="tavern.example.com")
    for word in ("home directory", "HOME", "XDG_DATA_HOME", "TAVERN_TURN_SECRET"):
        assert word in line


async def test_nothing_is_left_beside_a_database_that_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "device"
    os.mkfifo(path)
    line = await refusal(TAVERN_DB_PATH=str(path), TAVERN_DOMAIN="tavern.example.com")
    assert str(path) in line
    assert "no regular file" in line
    assert [file.name for file in tmp_path.iterdir()] == ["device"]


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    issued = trustme.CA().issue_cert("tavern.example.com")
    files = {"TAVERN_TLS_CERT": tmp_path / "cert.pem", "TAVERN_TLS_KEY": tmp_path / "key.pem"}
    issued.cert_chain_pems[0].write_to_path(str(files["TAVERN_TLS_CERT"]))
    issued.private_key_pem.write_to_path(str(files["TAVERN_TLS_KEY"]))
    return files


async def tls_refusal(files: dict[str, Path]) -> str:
    return await refusal(TAVERN_STORE="memory", **{variable: str(path) for variable, path in files.items()})


def test_a_certificate_with_its_key_is_used(certificate: dict[str, Path]) -> None:
    assert (
        server_certificate(load_settings({variable: str(path) for variable, path in certificate.items()})) is not None
    )
    assert server_certificate(load_settings({})) is None


async def test_a_key_behind_a_passphrase_is_refused_without_asking(certificate: dict[str, Path]) -> None:
    path = certificate["TAVERN_TLS_KEY"]
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"mellon"))
    )
    line = await tls_refusal(certificate)
    for word in ("TAVERN_TLS_KEY", str(path), "passphrase", "openssl pkey"):
        assert word in line


@pytest.mark.parametrize("variable", ["TAVERN_TLS_CERT", "TAVERN_TLS_KEY"])
async def test_tls_files_that_are_no_files_are_refused_unread(certificate: dict[str, Path], variable: str) -> None:
    path = certificate[variable]
    content = path.read_bytes()
    path.unlink()
    line = await tls_refusal(certificate)
    assert variable in line
    assert "No such file" in line
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(pipe, content)
        line = await tls_refusal(certificate)
        assert os.read(pipe, 65536) == content
    finally:
        os.close(pipe)
    for word in (variable, str(path), "regular file"):
        assert word in line
    path.unlink()
    path.mkdir()
    assert variable in await tls_refusal(certificate)


async def test_tls_files_that_do_not_belong_together_are_refused(certificate: dict[str, Path]) -> None:
    trustme.CA().issue_cert("tavern.example.com").private_key_pem.write_to_path(str(certificate["TAVERN_TLS_KEY"]))
    line = await tls_refusal(certificate)
    assert "TAVERN_TLS_CERT" in line
    assert "belongs to TAVERN_TLS_KEY" in line


async def test_the_gateway_is_a_proxy_where_it_is_named() -> None:
    gateways = default_gateways()
    decisions = await decided(TAVERN_TRUSTED_PROXIES="gateway,192.0.2.0/24")
    assert set(decisions.trusted_proxies) == {ip_network("192.0.2.0/24"), *map(ip_network, gateways)}
    assert bool(gateways) == (not any("gateway" in warning for warning in decisions.warnings))


def test_gateways_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    (tmp_path / "ipv6_route").write_text(
        f"{'0' * 32} 00 {'0' * 32} 00 fd000000000000000000000000000001 00000400 1 0 00000003 eth0\n"
        f"fd{'0' * 30} 40 {'0' * 32} 00 {'0' * 32} 00000100 1 0 00000001 eth0\n"
        f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n"
    )
    expected = {ip_address("192.168.0.1"), ip_address("fd00::1")} if sys.byteorder == "little" else set()
    assert default_gateways(tmp_path) == expected
    assert default_gateways(tmp_path / "nothing") == set()


def test_who_asks_no_authority_pays_nothing_for_it() -> None:
    """What is needed to ask takes 8 MB."""
    loaded = "import sys, tavern.app; print(sorted({'acme', 'josepy', 'requests'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
