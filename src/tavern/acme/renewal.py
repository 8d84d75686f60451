"""The task that keeps the server's certificate in time."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, nullcontext, suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import attrs
import trio

from tavern.acme.authority import METHODS, TLS, Authority, Challenge, ChallengeFailed, OrderFailed
from tavern.acme.files import CertificateFiles, key_pem, new_key, self_signed, server_context
from tavern.acme.schedule import CHECK_INTERVAL_S, retry_delay_s, wait_s
from tavern.logs import log_event
from tavern.web.challenges import ACME_PROTOCOL, Challenges

_CHALLENGE_LIFETIME = timedelta(days=1)
_Result = TypeVar("_Result")
_log = logging.getLogger("tavern.acme")


@attrs.define(eq=False)
class Renewal:
    """Looks at the certificate from time to time, and asks for a new one when it is due."""

    files: CertificateFiles
    challenges: Challenges
    directory_url: str
    email: str | None = None
    now: Callable[[], float] = time.time
    """Seconds since the epoch."""
    _methods: Sequence[str] = attrs.field(default=METHODS, init=False)
    """The one that worked last comes first."""
    _look: trio.Event = attrs.field(factory=trio.Event, init=False)

    def look_now(self) -> None:
        """What failed is tried again at once: somebody may have mended the reason."""
        self._look.set()

    async def run(self) -> None:
        """Until cancelled. What fails is logged and tried again: the certificate stays as it is."""
        failures = 0
        await self._wait_after_restart()
        while True:
            # Before the attempt: who says meanwhile that something was mended may have come too late for it.
            self._look = trio.Event()
            delay_s = CHECK_INTERVAL_S
            try:
                due_in_s = await self._due_in_s()
                if due_in_s <= 0:
                    await self._obtain()
                    await _in_thread(self.files.forget_failures)
                else:
                    delay_s = min(due_in_s, CHECK_INTERVAL_S)
                failures = 0
            except Exception as error:  # noqa: BLE001  the wall: calls go on, whatever an authority answers
                failures += 1
                delay_s = retry_delay_s(failures)
                reason = error if isinstance(error, OrderFailed | OSError) else repr(error)
                told = {"domain": self.files.domain, "again_in_s": int(delay_s), "reason": reason}
                log_event(_log, logging.WARNING, "certificate-not-obtained", **told)
                with suppress(OSError):  # a full disk, say: it would only be asked for sooner after a restart
                    await _in_thread(self.files.note_failure, self.now())
            with trio.move_on_after(delay_s):
                await self._look.wait()

    async def _wait_after_restart(self) -> None:
        """For as long as the authority would take one more failure amiss, unless somebody asks for another try."""
        delay_s = wait_s(await _in_thread(self.files.failures), self.now())
        if delay_s > 0:
            log_event(_log, logging.WARNING, "certificate-waits", domain=self.files.domain, again_in_s=int(delay_s))
            with trio.move_on_after(delay_s):
                await self._look.wait()

    async def _due_in_s(self) -> float:
        """0 or less: now."""
        due_at = await _in_thread(self.files.renewal_due_at)
        if due_at is None or due_at <= self.now():
            return 0
        wished_at = None
        async with self._asking() as authority:
            try:
                wished_at = await _in_thread(authority.wished_renewal_at, await _in_thread(self.files.chain_pem))
            except OrderFailed as error:
                log_event(_log, logging.DEBUG, "renewal-not-asked", reason=error)
        return min(due_at, wished_at or due_at) - self.now()

    async def _obtain(self) -> None:
        """Raises OrderFailed; where no method works, the reason of each is logged."""
        async with self._asking() as authority:
            for method in self._methods:
                try:
                    await self._obtain_by(authority, method)
                except ChallengeFailed as error:
                    log_event(_log, logging.WARNING, "challenge-failed", method=method, reason=error)
                    continue
                self._methods = (method, *(other for other in METHODS if other != method))
                log_event(_log, logging.INFO, "certificate-obtained", domain=self.files.domain, method=method)
                return
        raise OrderFailed("the authority does not find this server at its domain, neither on port 443 nor on port 80")

    async def _obtain_by(self, authority: Authority, method: str) -> None:
        key = key_pem(new_key())
        order = await _in_thread(authority.order, self.files.domain, key, method)
        with await self._offering(order.challenge):
            chain = await _in_thread(authority.finish, order)
        await _in_thread(self.files.store, key, chain)

    async def _offering(self, challenge: Challenge | None) -> AbstractContextManager[None]:
        if challenge is None:
            return nullcontext()
        if challenge.method != TLS:
            return self.challenges.http(challenge.token, challenge.key_authorization)
        made = self_signed(self.files.domain, "ACME challenge", _CHALLENGE_LIFETIME, challenge.certificate_extension())
        return self.challenges.tls(await _in_thread(server_context, *made, ACME_PROTOCOL.decode()))

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Authority]:
        """The authority, with connections that end with the block."""
        account_key = await _in_thread(self.files.account_key)
        with closing(Authority(self.directory_url, account_key, self.email)) as authority:
            yield authority


async def _in_thread(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Cancelled, it leaves the thread to itself: a request to an authority may take half a minute to give up."""
    return await trio.to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)
