"""What a server keeps of its authority, and what it does with files that are not as it left them."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from tavern.acme.files import CertificateFiles, key_pem, new_key, self_signed
from tavern.errors import StartupError

DOMAIN = "tavern.example.com"
DIRECTORY = "https://acme.example.org:14000/directory"


def files(folder: Path) -> CertificateFiles:
    return CertificateFiles.beside(folder, DIRECTORY, DOMAIN)


def issue(into: CertificateFiles) -> None:
    """One of an authority."""
    issued = trustme.CA().issue_cert(DOMAIN)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    into.store(issued.private_key_pem.bytes(), chain)


def test_authorities_and_domains_have_files_of_their_own(tmp_path: Path) -> None:
    assert files(tmp_path).certificate == tmp_path / "acme" / "acme.example.org-14000" / "tavern.example.com.pem"


def test_a_placeholder_serves_until_there_is_one_and_never_replaces_it(tmp_path: Path) -> None:
    kept = files(tmp_path)
    kept.prepare()
    placeholder = kept.certificate.read_bytes()
    assert kept.renewal_due_at() is None
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(kept.certificate)
    kept.prepare()
    assert kept.certificate.read_bytes() == placeholder
    issue(kept)
    issued = kept.certificate.read_bytes()
    kept.prepare()
    assert kept.certificate.read_bytes() == issued
    assert kept.renewal_due_at() is not None
    assert b"PRIVATE" not in kept.chain_pem()
    assert kept.chain_pem() in issued


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 5000, self_signed(DOMAIN, "x", timedelta(days=1))[1]])
def test_what_is_no_certificate_with_its_key_gives_way(tmp_path: Path, content: bytes) -> None:
    kept = files(tmp_path)
    kept.prepare()
    kept.certificate.write_bytes(content)
    kept.prepare()
    assert kept.renewal_due_at() is None
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(kept.certificate)


def test_only_its_user_reads_them(tmp_path: Path) -> None:
    kept = files(tmp_path)
    old = os.umask(0)
    try:
        kept.account_key()
        kept.prepare()
        issue(kept)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.directory.iterdir()} == {0o600}
    assert stat.S_IMODE(kept.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.directory.parent.stat().st_mode) == 0o700


def test_the_account_keeps_its_key(tmp_path: Path) -> None:
    first = key_pem(files(tmp_path).account_key())
    assert key_pem(files(tmp_path).account_key()) == first
    (files(tmp_path).directory / "account-key.pem").write_bytes(b"torn")
    assert key_pem(files(tmp_path).account_key()) != first


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("a file where a directory should be")
    with pytest.raises(StartupError, match=f"{tmp_path}/acme/acme.example.org-14000: .*mend its permissions"):
        files(tmp_path).prepare()


def test_each_key_is_new() -> None:
    assert key_pem(new_key()) != key_pem(new_key())


def test_failures_are_remembered_until_there_is_a_certificate(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "acme", "tavern.example.com")
    assert files.failures() == []
    for at in range(20):
        files.note_failure(float(at))
    assert files.failures() == [float(at) for at in range(12, 20)]
    files.forget_failures()
    files.forget_failures()
    assert files.failures() == []
    for broken in (b"", b"{", b"{}", b'["x"]'):
        files._failures.write_bytes(broken)
        assert files.failures() == []
