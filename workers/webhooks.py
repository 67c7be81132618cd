"""Sending deliveries: each is claimed, signed and posted; what came of it is stored. Called by tasks.

A receiver holds up its own deliveries only: one worker at a time sends to it, a turn ends after TURN_SECONDS, and one
that doesn't answer is left alone for a while. So imports, which wait in the same queue, go on.
"""

import contextlib
import http.client
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.core.cache import cache
from django.db.models import F
from django.utils import timezone

from webapp import __version__
from webapp.events.addresses import PORTS, AddressRefused, check_url, resolved
from webapp.events.models import Delivery, Webhook
from webapp.events.services import webhook_switch_off

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
"""From the first byte to the last, however slowly they come."""

ANSWER_BYTES = 4096
TURN_SECONDS = 20.0
# Longer than an attempt with the slowest look-up of a name: then whoever claimed a delivery is dead.
CLAIMED_FOR = timedelta(minutes=3)
RETRY_AFTER = [
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=24),
]
HELD_AT_MOST = timedelta(minutes=10)
SWITCHED_OFF_AFTER = timedelta(days=3)


class Outcome(NamedTuple):
    """What came of an attempt: the HTTP status, or None and why there is none."""

    status: int | None
    error: str = ""

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def send_all_due() -> None:
    """A message for each webhook that has something to be sent; called by beat."""
    for webhook in Webhook.objects.due():
        webhook.enqueue()


def send_due(webhook_pk: int) -> None:
    """Send what is due to a webhook, one worker at a time, until it doesn't answer or the turn is over."""
    turn = f"webhook-turn:{webhook_pk}"
    if not cache.add(turn, True, TURN_SECONDS + CLAIMED_FOR.total_seconds()):
        return  # whoever is at it looks again before it ends
    try:
        turn_take(webhook_pk)
    finally:
        cache.delete(turn)


def turn_take(webhook_pk: int) -> None:
    """One turn of a webhook, oldest first. What is left then waits behind the queue's other work."""
    end = time.monotonic() + TURN_SECONDS
    due = Delivery.objects.due().filter(webhook=webhook_pk).order_by("pk")
    ready = Webhook.objects.ready().select_related("project").filter(pk=webhook_pk)
    while (delivery := due.first()) is not None and (webhook := ready.first()) is not None:
        if time.monotonic() > end:
            webhook.enqueue()
            return
        if _claim(delivery):
            _settle(webhook, delivery, attempt(webhook, delivery))


def _claim(delivery: Delivery) -> bool:
    """Of several workers that try at once, one may send it."""
    mine = Delivery.objects.due().filter(pk=delivery.pk, attempts=delivery.attempts)
    if not mine.update(next_at=timezone.now() + CLAIMED_FOR, attempts=F("attempts") + 1):
        return False
    delivery.attempts += 1
    return True


def _settle(webhook: Webhook, delivery: Delivery, outcome: Outcome) -> None:
    """Store what came of an attempt, unless the delivery is in other hands by now."""
    now = timezone.now()
    error = outcome.error or ("" if outcome.delivered else f"It answered {outcome.status}.")
    changes: dict[str, object] = {"last_status": outcome.status, "last_error": error[:300]}
    delay = RETRY_AFTER[min(delivery.attempts, len(RETRY_AFTER)) - 1] * random.uniform(1.0, 1.2)
    if outcome.delivered:
        changes |= {"state": Delivery.State.DELIVERED, "delivered_at": now}
    elif delivery.attempts > len(RETRY_AFTER):
        changes["state"] = Delivery.State.FAILED
    else:
        changes["next_at"] = now + delay
    mine = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.QUEUED, attempts=delivery.attempts)
    if not mine.update(**changes):
        return
    same = Webhook.objects.filter(pk=webhook.pk, url=webhook.url)
    if outcome.delivered:
        same.exclude(failing_since=None, held_until=None).update(failing_since=None, held_until=None)
        return
    logger.info("webhook %s: delivery %s, attempt %s: %s", webhook.pk, delivery.pk, delivery.attempts, error)
    if outcome.status is None:
        same.update(held_until=now + min(delay, HELD_AT_MOST))
    same.filter(failing_since=None).update(failing_since=now)
    since = webhook.failing_since
    if outcome.status == http.client.GONE:
        webhook_switch_off(webhook=webhook, why="It answered 410: it wants no more.")
    elif since is not None and now - since > SWITCHED_OFF_AFTER:
        why = f"Nothing arrived for {SWITCHED_OFF_AFTER.days} days. The last failure: {error}"
        webhook_switch_off(webhook=webhook, why=why)


def attempt(webhook: Webhook, delivery: Delivery) -> Outcome:
    """Post one delivery, to an address that webhooks may lead to and no other. No redirect is followed."""
    body = json.dumps(delivery.payload, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Caliper/{__version__}",
        **signed(webhook, str(delivery.event_id), body),
    }
    try:
        parts = check_url(webhook.url)
        assert parts.hostname is not None
        port = parts.port or PORTS[parts.scheme]
        end = time.monotonic() + TIMEOUT_SECONDS
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with _connected(parts.hostname, port, parts.scheme == "https", end) as connection:
            connection.request("POST", target, body.encode(), headers)
            answer = connection.getresponse()
            with contextlib.suppress(OSError, http.client.HTTPException):
                # Out of politeness: nothing in it counts.
                answer.read(ANSWER_BYTES)
            return Outcome(answer.status)
    except AddressRefused as refusal:
        return Outcome(None, str(refusal))
    except socket.gaierror:
        return Outcome(None, "Its name is unknown.")
    except ssl.SSLCertVerificationError as error:
        return Outcome(None, f"Its certificate is not accepted: {error.verify_message}.")
    except TimeoutError:
        return Outcome(None, f"It didn't answer within {TIMEOUT_SECONDS:g} s.")
    except ConnectionRefusedError:
        return Outcome(None, "It refused the connection.")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome(None, f"The connection broke ({type(error).__name__}).")


def signed(webhook: Webhook, event_id: str, body: str) -> dict[str, str]:
    """The three headers of standard-webhooks; a signature for each secret that counts."""
    import standardwebhooks

    now = datetime.now(UTC)
    signatures = [standardwebhooks.Webhook(each).sign(event_id, now, body) for each in webhook.secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@contextlib.contextmanager
def _connected(host: str, port: int, tls: bool, end: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to one of the addresses that the host's name has now, cut off at `end` (monotonic seconds).

    A time-out alone bounds each read only: whoever sends a byte now and then would keep a worker for hours. So the
    connection is shut down from beside, whatever is being waited for.
    """
    plain = _first_that_answers(resolved(host, port), port, end)
    guard = plain.dup()  # still the connection, when TLS has taken the socket over
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            guard.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, end - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(host, port)
    try:
        # The name is asked for and checked in the certificate; the address is the one that was looked at.
        connection.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) if tls else plain
        )
        connection.auto_open = 0
        if port == PORTS["https" if tls else "http"]:
            # http.client leaves out 80 alone.
            connection.default_port = port
        yield connection
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        connection.close()
        plain.close()
        guard.close()


def _first_that_answers(addresses: list[str], port: int, end: float) -> socket.socket:
    """A connection to the first of these addresses that takes one."""
    failure: OSError = TimeoutError()
    for address in addresses:
        if (left := end - time.monotonic()) <= 0:
            break
        try:
            connected = socket.create_connection((address, port), timeout=left)
        except OSError as error:
            failure = error
        else:
            connected.settimeout(TIMEOUT_SECONDS)
            return connected
    raise failure
