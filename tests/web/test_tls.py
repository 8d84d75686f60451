"""A certificate that is renewed while the server runs: used soon, and never half of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio.testing
import trustme

from tavern.web.tls import CHECK_INTERVAL_S, ServerCertificate

AUTHORITY = trustme.CA()


@attrs.define(eq=False)
class Files:
    """A pair of files, as operators have them."""

    folder: Path
    certificate: ServerCertificate = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.write()
        self.certificate = ServerCertificate(self.cert, self.key)

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def write(self, *, cert: bool = True, key: bool = True) -> None:
        """A new pair, or half of it, written over the old one."""
        issued = AUTHORITY.issue_cert("localhost")
        if cert:
            issued.cert_chain_pems[0].write_to_path(self.cert)
        if key:
            issued.private_key_pem.write_to_path(self.key)

    def replace(self) -> None:
        """As tools do that rename a new file over the old one."""
        issued = AUTHORITY.issue_cert("localhost")
        for path, pem in ((self.cert, issued.cert_chain_pems[0]), (self.key, issued.private_key_pem)):
            new = path.with_suffix(".new")
            pem.write_to_path(new)
            new.replace(path)

    def link_elsewhere(self) -> None:
        """As Certbot does: the files are links to the newest ones."""
        newer = self.folder / "2"
        newer.mkdir()
        issued = AUTHORITY.issue_cert("localhost")
        for path, pem in ((self.cert, issued.cert_chain_pems[0]), (self.key, issued.private_key_pem)):
            pem.write_to_path(newer / path.name)
            path.unlink()
            path.symlink_to(newer / path.name)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("renew", [Files.write, Files.replace, Files.link_elsewhere])
async def test_a_renewed_certificate_is_used_within_a_second(
    files: Files, renew: Callable[[Files], None], mock_clock: trio.testing.MockClock
) -> None:
    before = files.certificate.context()
    renew(files)
    mock_clock.jump(CHECK_INTERVAL_S / 2)
    assert files.certificate.context() is before  # a flood of handshakes looks at no files
    mock_clock.jump(CHECK_INTERVAL_S / 2)
    after = files.certificate.context()
    assert after is not before
    mock_clock.jump(CHECK_INTERVAL_S)
    assert files.certificate.context() is after


async def test_half_a_pair_changes_nothing_and_is_told_once(
    files: Files, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.certificate.context()
    files.write(key=False)
    for _ in range(3):
        mock_clock.jump(CHECK_INTERVAL_S)
        assert files.certificate.context() is before
    assert warnings(caplog) == ["certificate-not-renewed"]
    files.write()
    mock_clock.jump(CHECK_INTERVAL_S)
    assert files.certificate.context() is not before
    assert warnings(caplog) == ["certificate-not-renewed"]


@pytest.mark.parametrize("breakage", ["gone", "garbage", "empty", "pipe"])
async def test_whatever_happens_to_the_files_the_server_keeps_its_certificate(
    files: Files, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, breakage: str
) -> None:
    before = files.certificate.context()
    if breakage in ("gone", "pipe"):
        files.cert.unlink()
    if breakage == "pipe":
        os.mkfifo(files.cert)
    if breakage in ("garbage", "empty"):
        files.cert.write_text("garbage" if breakage == "garbage" else "")
    mock_clock.jump(CHECK_INTERVAL_S)
    assert files.certificate.context() is before
    assert warnings(caplog) == ["certificate-not-renewed"]
