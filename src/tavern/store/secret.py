"""Secrets that are made once and kept with the data: the relay's, and the server's own."""

from __future__ import annotations

import errno
import os
import re
import secrets
from pathlib import Path

from tavern.errors import StartupError
from tavern.store.files import FILE_MODE, create_private_directories, is_no_file

_SECRET = re.compile(r"[!-~]{16,512}")
"""Printable, without spaces: what an operator may have put there by hand, and no torn or binary file."""

_READ_LIMIT = 4_096

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""How file systems without hard links (exFAT, some network shares) say so."""


def load_or_create_secret(
    path: Path, name: str = "the TURN secret", instead: str = ", or set TAVERN_TURN_SECRET"
) -> str:
    """The secret in the file; where there is none, a random one (256 bits) is made and stored, mode 0600.

    On return it is on the disk. Of starts that race, all return the same one. Blocks on the disk. Raises StartupError
    where the file holds no secret, and where it or its directory cannot be read or written; it calls the secret
    `name`, and says what to do `instead`.
    """
    if is_no_file(path):
        raise StartupError(f"{path} should hold {name} and is no regular file: move it away{instead}")
    try:
        if not path.exists():
            _create(path)
        with path.open("rb") as file:
            content = file.read(_READ_LIMIT + 1)
    except OSError as error:
        raise StartupError(
            f"cannot read or store {name} in {path}: {error.strerror}: mend its permissions{instead}"
        ) from error
    secret = content.decode("latin-1").strip()
    if not _SECRET.fullmatch(secret):
        raise StartupError(
            f"{path} should hold {name} (16 to 512 printable characters) and does not: "
            f"delete it, and a new one is made at the next start{instead}"
        )
    return secret


def _create(path: Path) -> None:
    """Put a whole, synced file in place at once; if another start was faster, leave its file alone."""
    create_private_directories(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: it fails where the other start's file is, which may already be in use.
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
