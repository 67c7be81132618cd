"""Sending webhooks: signed, once, again after failures, and only to where they may go."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.cache import cache
from django.db import connection
from django.test import TestCase
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.events.addresses import AddressRefused, check_url, is_allowed
from webapp.events.models import Delivery, Kind, Webhook
from webapp.events.recording import event_record
from webapp.events.services import delivery_again, webhook_add, webhook_change, webhook_rotate
from workers import webhooks
from workers.housekeeping import deliveries_sweep

from .receiver import Receiver, receiving

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_PRIVATE = [ip_network("127.0.0.1/32")]
    with receiving() as server:
        yield server


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What would have been enqueued: the keys of webhooks."""
    keys: list[int] = []
    monkeypatch.setattr("webapp.celery.send", lambda task, key, **_: keys.append(key))
    return keys


@pytest.fixture
def hook(project: Project, admin: User, receiver: Receiver) -> Webhook:
    return webhook_add(project=project, url=receiver.url, kinds=list(Kind.values), actor=admin)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """moved(hours=1): the clock of the rows goes on."""
    real, ahead = timezone.now, timedelta()

    def move(**by: float) -> None:
        nonlocal ahead
        ahead += timedelta(**by)

    def now() -> datetime:
        return real() + ahead

    monkeypatch.setattr("django.utils.timezone.now", now)
    return move


def beat(sent: list[int]) -> None:
    """What beat has sent, and nothing else."""
    sent.clear()
    with TestCase.captureOnCommitCallbacks(execute=True):
        webhooks.send_all_due()
    for key in sent:
        webhooks.send_due(key)


def happened(project: Project, number: int = 1) -> list[Delivery]:
    project.refresh_from_db()
    for _ in range(number):
        event_record(project, Kind.VERSION_PROMOTED, {"version": 7, "name": "Überbär-1"})
    return list(Delivery.objects.order_by("pk"))


def test_a_delivery_is_signed_as_the_standard_says(
    project: Project, hook: Webhook, receiver: Receiver, admin: User
) -> None:
    old = hook.secret
    new = webhook_rotate(webhook=hook, actor=admin)
    assert new != old
    (delivery,) = happened(project)
    webhooks.send_due(hook.pk)
    (headers, body) = receiver.got[0]
    for secret in (old, new):  # for a day both
        told = standardwebhooks.Webhook(secret).verify(body, headers)
        assert told == delivery.payload
    # The documentation's own check says the same.
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0], names)
    assert names["is_from_caliper"](new, headers, body)
    assert not names["is_from_caliper"](new, headers, body.replace(b"7", b"8"))
    assert not names["is_from_caliper"]("whsec_c2VjcmV0", headers, body)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(new).verify(body.replace(b"7", b"8"), headers)
    assert told["data"] == {"project": "capitals", "version": 7, "name": "Überbär-1"}
    assert headers["webhook-id"] == str(delivery.event_id)
    assert headers["Host"] == f"127.0.0.1:{receiver.server_port}"
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 204)
    # A day later the old one counts no more.
    Webhook.objects.update(former_until=timezone.now())
    assert delivery_again(delivery=delivery)
    assert not delivery_again(delivery=delivery), "it is on its way"
    webhooks.send_due(hook.pk)
    headers, body = receiver.got[1]
    assert len(headers["webhook-signature"].split()) == 1
    assert headers["webhook-id"] == str(delivery.event_id), "a repetition can be recognised"


def test_failures_are_tried_again_later_and_later(
    project: Project, hook: Webhook, receiver: Receiver, moved: Callable[..., None], sent: list[int]
) -> None:
    receiver.answers = [500]
    (delivery,) = happened(project)
    for number, wait in enumerate([*webhooks.RETRY_AFTER, None], start=1):
        webhooks.send_due(hook.pk)
        delivery.refresh_from_db()
        assert (delivery.attempts, delivery.last_status, len(receiver.got)) == (number, 500, number)
        webhooks.send_due(hook.pk)
        assert len(receiver.got) == number, "not before its time"
        if wait is None:
            break
        assert (
            wait
            <= delivery.next_at - timezone.now() + timedelta(seconds=2)
            <= wait * 1.2 + timedelta(seconds=2)
        )
        moved(seconds=wait.total_seconds() * 1.2)
    assert delivery.state == "failed"
    hook.refresh_from_db()
    assert hook.active
    assert hook.failing_since is not None
    # An arrival ends the failing; three days without one end the webhook.
    receiver.answers = [200, 503]
    happened(project)
    beat(sent)
    hook.refresh_from_db()
    assert hook.failing_since is None
    happened(project)
    webhooks.send_due(hook.pk)
    moved(days=3, seconds=1)
    webhooks.send_due(hook.pk)
    hook.refresh_from_db()
    project.refresh_from_db()
    assert (hook.active, project.has_webhooks) == (False, False)
    assert "3 days" in hook.disabled_reason
    assert "503" in hook.disabled_reason
    count = len(receiver.got)
    moved(days=2)
    beat(sent)
    assert len(receiver.got) == count
    # Switched on again: what waited is sent. Then it answers 410 and is switched off at once.
    receiver.answers = [200, 410]
    assert webhook_change(webhook=hook, actor=hook.created_by, active=True)
    webhooks.send_due(hook.pk)
    assert Delivery.objects.latest("pk").state == "delivered"
    happened(project)
    webhooks.send_due(hook.pk)
    hook.refresh_from_db()
    assert not hook.active
    assert "410" in hook.disabled_reason
    assert deliveries_sweep() == 0
    moved(days=30)
    assert deliveries_sweep() == 4


def test_a_receiver_that_drips_or_sleeps_is_cut_off_and_left_alone(
    project: Project,
    hook: Webhook,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    moved: Callable[..., None],
    sent: list[int],
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.4)
    receiver.answers = ["drip"]
    first, _ = happened(project, 2)
    webhooks.send_due(hook.pk)
    first.refresh_from_db()
    assert "within 0.4 s" in first.last_error
    beat(sent)
    assert len(receiver.got) == 1, "the second one waits too, and keeps no worker"
    assert sent == []
    receiver.answers = [200]
    moved(seconds=7)
    cache.add(f"webhook-turn:{hook.pk}", True)
    beat(sent)
    assert (sent, len(receiver.got)) == ([hook.pk], 1), "another worker is at it"
    cache.delete(f"webhook-turn:{hook.pk}")
    beat(sent)
    assert [each.state for each in Delivery.objects.order_by("pk")] == ["delivered", "delivered"]
    receiver.server_close()
    receiver.shutdown()
    happened(project)
    webhooks.send_due(hook.pk)
    assert "refused the connection" in Delivery.objects.latest("pk").last_error


def test_no_redirect_is_followed(project: Project, hook: Webhook, receiver: Receiver) -> None:
    receiver.answers = [receiver.url]
    (delivery,) = happened(project)
    webhooks.send_due(hook.pk)
    delivery.refresh_from_db()
    assert (delivery.last_status, delivery.state, len(receiver.got)) == (302, "queued", 1)


ADDRESSES = """
127.0.0.1 10.0.0.8 172.16.1.1 192.168.1.1 169.254.169.254 100.100.100.200 0.0.0.0 224.0.0.1 255.255.255.255
192.0.0.192 168.63.129.16 198.18.0.1 240.0.0.1 ::1 :: fe80::1 fd00:ec2::254 fec0::1 ff0e::1 ::ffff:127.0.0.1
::ffff:10.0.0.1 ::7f00:1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2001::1 2001:db8::1
3fff::1 5f00::1
"""


def test_private_and_special_addresses_are_refused(settings: Any) -> None:
    assert [text for text in ADDRESSES.split() if is_allowed(ip_address(text))] == []
    public = ["93.184.215.14", "2606:2800:220:1::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
    assert [text for text in public if not is_allowed(ip_address(text))] == []
    settings.WEBHOOK_PRIVATE = [ip_network("10.0.0.0/24")]
    assert is_allowed(ip_address("10.0.0.8"))
    assert is_allowed(ip_address("::ffff:10.0.0.8"))
    assert not is_allowed(ip_address("10.0.1.8"))


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "http://", "http:///x", "https://user:secret@example.com/", "http://10.0.0.1/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]:80/", "http://[fe80::1%25eth0]/", "http://ex ample.com/", "http://e\x00.com/",
        "http://e\ud800.com/", "https://bücher.example/", "http://example.com:99999/", "http://example.com:0/", "http://[/",
        "https://example.com/#x", "https://example.com/" + "x" * 500, "http://169.254.169.254/latest/meta-data/", "http://@x.org/",
        "file:///etc/passwd", "gopher://example.com/", "http://example.com/\r\nX: y",
    ],
)  # fmt: skip
def test_addresses_that_no_webhook_has(url: str) -> None:
    with pytest.raises(AddressRefused) as refusal:
        check_url(url)
    assert str(refusal.value).endswith(".") or "CALIPER_WEBHOOK_PRIVATE" in str(refusal.value)


def test_a_name_that_changes_its_address_leads_nowhere_else(
    project: Project, admin: User, receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what was looked at is gone to; one private address refuses all."""
    settings.WEBHOOK_PRIVATE = []
    asked: list[str] = []
    answers = [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["93.184.215.14"], ["127.0.0.1"]]
    gone: list[Any] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers.pop(0)]

    def create_connection(address: Any, **_: Any) -> socket.socket:
        gone.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    # Literals in the old forms, which only the resolver reads, come to the same.
    hook = webhook_add(project=project, url="http://2130706433/", kinds=["run.finished"], actor=admin)
    delivery = hook.delivery("ping", {}, event_id=Delivery().event_id, at=timezone.now())
    outcomes = [webhooks.attempt(hook, delivery) for _ in range(3)]
    assert ["private" in outcome.error for outcome in outcomes] == [True, True, False]
    assert gone == [("93.184.215.14", 80)], "the address that was looked at, and no second question"
    assert len(asked) == 3
    assert receiver.got == []


def certificate(folder: Path, name: str) -> Path:
    """One file with a key and a certificate for a name, which it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(names, names, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(plain + made.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def test_certificates_are_checked_against_the_name(
    project: Project, hook: Webhook, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to an address, but the name is asked for, and the certificate must be of that name."""
    (delivery,) = happened(project)
    asked: list[str | None] = []
    path = certificate(tmp_path, "hooks.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    server.sni_callback = lambda connection, name, context: asked.append(name)
    receiver.socket = server.wrap_socket(receiver.socket, server_side=True)
    here = "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **__: [(2, 1, 6, "", (here, port))])

    def outcome(name: str) -> webhooks.Outcome:
        hook.url = f"https://{name}:{receiver.server_port}/"
        return webhooks.attempt(hook, delivery)

    assert "certificate is not accepted" in outcome("hooks.test").error, "nobody we know signed it"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert outcome("hooks.test") == webhooks.Outcome(204)
    assert "certificate is not accepted" in outcome("other.test").error
    assert asked == ["hooks.test", "hooks.test", "other.test"]
    assert [headers["Host"] for headers, _ in receiver.got] == [f"hooks.test:{receiver.server_port}"]


@pytest.mark.django_db(transaction=True)
def test_two_workers_send_each_delivery_once(project: Project, hook: Webhook, receiver: Receiver) -> None:
    receiver.pause = 0.02
    happened(project, 12)

    def work() -> None:
        try:
            webhooks.turn_take(hook.pk)  # what keeps them apart otherwise may be lost
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    sent = [json.loads(body)["timestamp"] for _, body in receiver.got]
    assert len(sent) == len({headers["webhook-id"] for headers, _ in receiver.got}) == 12
    assert set(Delivery.objects.values_list("state", "attempts")) == {("delivered", 1)}
