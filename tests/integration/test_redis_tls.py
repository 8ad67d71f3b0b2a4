"""Redis over TLS on a real server: whom we trust, who we are, and what is said when either is refused."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any  # options by name

import pytest
import trustme
from redis.asyncio import Redis

from hubplane import BackplaneAuthenticationError, ConfigurationError, Endpoint, HubApp, RedisFailure, RedisOptions
from hubplane.backplane.redis.client import ClientSource
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisConnectionError
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.tls import make_tls_context
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer


@dataclass(frozen=True)
class Secured:
    """A server that speaks TLS on `port`, and the files that belong to it."""

    server: RedisServer
    port: int
    ca: str
    certificate: str
    key: str
    folder: Path

    def node(self, text: str, **changes: Any) -> RedisBackplane:
        """A backplane for a configuration that trusts the server's authority."""
        return RedisBackplane(replace(parse(text), **{"tls_ca_file": self.ca, "async_timeout": 1.0, **changes}))


def start(folder: Path, *, demand: bool, password: str | None = None) -> Iterator[Secured]:
    """Debian's Redis with TLS for ``localhost``; the embedded Valkey is built without."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    ours = authority.issue_cert("localhost")
    ours.private_key_pem.write_to_path(folder / "server.key")
    ours.cert_chain_pems[0].write_to_path(folder / "server.pem")
    mine = authority.issue_cert("node.example")
    mine.private_key_pem.write_to_path(folder / "node.key")
    mine.cert_chain_pems[0].write_to_path(folder / "node.pem")
    mine.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    with RedisServer() as free:
        port = free.port
    arguments = ["--tls-port", str(port), "--tls-auth-clients", "yes" if demand else "no"]
    arguments += ["--tls-cert-file", str(folder / "server.pem"), "--tls-key-file", str(folder / "server.key")]
    arguments += ["--tls-ca-cert-file", str(folder / "ca.pem")]
    with RedisServer(kind="redis", password=password, arguments=arguments) as server:
        yield Secured(
            server,
            port,
            str(folder / "ca.pem"),
            str(folder / "node.pem"),
            str(folder / "node.key"),
            folder,
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server that shows its certificate and asks for none."""
    yield from start(tmp_path_factory.mktemp("tls"), demand=False)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server that lets nobody in without a certificate of its authority."""
    yield from start(tmp_path_factory.mktemp("mtls"), demand=True)


async def exchange(node: RedisBackplane) -> None:
    """A message goes out and comes back."""
    sink = RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        assert await node.publish("room", b"x") == 1
        await sink.message("room", b"x")
        assert sink.events == []


async def refusal(node: RedisBackplane) -> RedisConnectionError:
    """What the node says when it is not let in."""
    sink = RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        with pytest.raises(BackplaneAuthenticationError):
            await node.publish("room", b"x")
    error = sink.errors[0]
    assert isinstance(error, RedisConnectionError)
    assert isinstance(error, BackplaneAuthenticationError)
    assert error.failure is RedisFailure.AUTHENTICATION_FAILURE
    return error


@pytest.mark.parametrize(
    "form",
    [
        "localhost:{port},ssl=true",
        "localhost:{port},ssl=true,sslProtocols=Tls12",
        "localhost:{port},ssl=true,sslProtocols=Tls12|Tls13",
        "127.0.0.1:{port},ssl=true,sslHost=localhost",
        "rediss://localhost:{port}",
        "valkeys://localhost:{port}/0?sslProtocols=Tls13",
        "rediss://127.0.0.1:{port}?sslHost=localhost",
    ],
)
async def test_verified_server_in_every_form(secured: Secured, form: str) -> None:
    """Strings and URLs lead to the server over TLS, in the versions they allow, under the name they give."""
    await exchange(secured.node(form.format(port=secured.port)))


async def test_allowed_versions_reach_the_wire(secured: Secured) -> None:
    """What `sslProtocols` allows is what is spoken."""
    for names, version in (("Tls12", "TLSv1.2"), ("Tls13", "TLSv1.3")):
        options = parse(f"localhost:{secured.port},ssl=true,sslProtocols={names}")
        context = make_tls_context(replace(options, tls_ca_file=secured.ca))
        _, writer = await asyncio.open_connection("localhost", secured.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == version
        writer.close()
        await writer.wait_closed()


async def test_server_of_another_name_is_refused(secured: Secured) -> None:
    """A certificate for another host is refused, with a text that names the option which gives another."""
    error = await refusal(secured.node(f"127.0.0.1:{secured.port},ssl=true"))
    assert error.endpoint == Endpoint("127.0.0.1", secured.port)
    assert "certificate verify failed" in str(error)
    assert "127.0.0.1" in str(error)
    assert "RedisOptions.tls_host (sslHost)" in str(error)
    error = await refusal(secured.node(f"localhost:{secured.port},ssl=true,sslHost=redis.example"))
    assert "redis.example" in str(error)


async def test_unknown_authority_is_refused(secured: Secured) -> None:
    """A certificate that no trusted authority issued is refused."""
    error = await refusal(secured.node(f"localhost:{secured.port},ssl=true", tls_ca_file=None))
    assert "certificate verify failed" in str(error)


async def test_version_that_the_server_lacks_is_refused(secured: Secured) -> None:
    """A server that speaks no allowed version of TLS is told apart from one that is away."""
    secured.server.command("CONFIG", "SET", "tls-protocols", "TLSv1.2")
    try:
        await refusal(secured.node(f"localhost:{secured.port},ssl=true,sslProtocols=Tls13"))
    finally:
        secured.server.command("CONFIG", "SET", "tls-protocols", "")


async def test_client_certificate(strict: Secured) -> None:
    """A server that wants a certificate takes ours, in one file with its key or in two."""
    text = f"localhost:{strict.port},ssl=true"
    pair = {"tls_client_certificate": strict.certificate, "tls_client_key": strict.key}
    await exchange(strict.node(text, **pair))
    await exchange(strict.node(text, tls_client_certificate=str(strict.folder / "both.pem")))


@pytest.mark.parametrize("versions", ["Tls12", "Tls13"])
async def test_missing_client_certificate(strict: Secured, versions: str) -> None:
    """Without one the node is not let in, and the text says what may be missing, in either version of TLS."""
    sink = RecordingSink()
    async with strict.node(f"localhost:{strict.port},ssl=true,sslProtocols={versions}").run(sink):
        await sink.event("lost")
    assert str(sink.errors[0]).startswith(f"Cannot connect to Redis at localhost:{strict.port}: ")
    # With TLS 1.3 the server's own word for it may be lost with the connection.
    assert "certificate" in str(sink.errors[0])


async def test_context_of_the_application(strict: Secured) -> None:
    """An own `ssl.SSLContext` counts instead of the files."""
    context = ssl.create_default_context(cafile=strict.ca)
    context.load_cert_chain(strict.certificate, strict.key)
    node = strict.node(f"localhost:{strict.port},ssl=true", tls_ca_file=None, ssl_context=context)
    await exchange(node)


async def test_settings_of_a_client_over_tls(strict: Secured) -> None:
    """A redis-py client's authority, certificate and host check are those of our connections."""
    fast = RedisOptions(async_timeout=1.0)
    settings: dict[str, Any] = {
        "ssl_ca_certs": strict.ca,
        "ssl_certfile": strict.certificate,
        "ssl_keyfile": strict.key,
    }
    async with Redis(host="localhost", port=strict.port, ssl=True, **settings) as client:
        await exchange(RedisBackplane(fast, source=ClientSource(client)))
    async with Redis(host="127.0.0.1", port=strict.port, ssl=True, **settings) as client:
        assert "IP address mismatch" in str(await refusal(RedisBackplane(fast, source=ClientSource(client))))
    settings["ssl_check_hostname"] = False
    async with Redis(host="127.0.0.1", port=strict.port, ssl=True, **settings) as client:
        await exchange(RedisBackplane(fast, source=ClientSource(client)))


async def test_login_over_tls(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    """User and password work as without TLS, and appear nowhere."""
    caplog.set_level(logging.DEBUG)
    secured.server.command("ACL", "SETUSER", "node", "on", ">hunter2", "+@all", "&App:*")
    text = f"localhost:{secured.port},ssl=true,user=node,password=hunter2,channelPrefix=App:"
    await exchange(secured.node(text))
    assert "hunter2" not in caplog.text


async def test_renewed_certificate_counts_at_the_next_connect(
    strict: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The files are read for each connect: one that is broken is an outage, and ends when it is put right."""
    caplog.set_level(logging.DEBUG)
    certificate = tmp_path / "node.pem"
    certificate.write_bytes((strict.folder / "both.pem").read_bytes())
    node = strict.node(f"localhost:{strict.port},ssl=true", tls_client_certificate=str(certificate), retry_max=0.1)
    sink = RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        certificate.write_text("renewing", encoding="ascii")
        strict.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await sink.event("lost")
        async with asyncio.timeout(10):
            while "tls_client_certificate cannot be used" not in caplog.text:  # noqa: ASYNC110 - the log's
                await asyncio.sleep(0.01)
        certificate.write_bytes((strict.folder / "both.pem").read_bytes())
        await sink.event("restored with a gap")
        assert await node.publish("room", b"x") == 1


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("tls_ca_file", {"tls_ca_file": "missing.pem"}),
        ("tls_ca_file", {"tls_ca_file": "rubbish.pem"}),
        ("tls_client_certificate", {"tls_client_certificate": "missing.pem"}),
        ("tls_client_certificate", {"tls_client_certificate": "rubbish.pem", "tls_client_key": "node.key"}),
        ("tls_client_key", {"tls_client_certificate": "node.pem", "tls_client_key": "missing.pem"}),
        ("tls_client_key", {"tls_client_certificate": "node.pem", "tls_client_key": "rubbish.pem"}),
        ("tls_client_key", {"tls_client_certificate": "node.pem", "tls_client_key": "server.key"}),
        ("tls_client_certificate", {"tls_client_certificate": "node.pem"}),
        ("tls_client_key", {"tls_client_key": "node.key"}),
    ],
)
async def test_unusable_file_names_its_option(secured: Secured, option: str, changes: dict[str, str]) -> None:
    """A certificate or key that is missing, unreadable or of another pair stops the start and names its option."""
    (secured.folder / "rubbish.pem").write_text("no certificate", encoding="ascii")
    paths: dict[str, Any] = {name: str(secured.folder / value) for name, value in changes.items()}
    with pytest.raises(ConfigurationError, match=rf"RedisOptions\.{option} "):
        HubApp().add_redis(f"localhost:{secured.port},ssl=true", **paths)


async def test_speaking_past_each_other(secured: Secured) -> None:
    """Plain text to a TLS port, and TLS to a plain one, are failures with a reason; nobody hangs."""
    for text in (f"localhost:{secured.port}", f"localhost:{secured.server.port},ssl=true"):
        sink = RecordingSink()
        async with secured.node(text, connect_timeout=1.0).run(sink):
            await sink.event("lost")
            assert str(sink.errors[0]).startswith("Cannot connect to Redis at localhost:")


@pytest.mark.row("S6")
def test_strings_of_azure_work_as_they_are() -> None:
    """Azure's own strings mean TLS with verification, port 6380 or 10000, user and password, and a start without it."""
    cache = parse("contoso.redis.cache.windows.net:6380,password=abc+/=,ssl=True,abortConnect=False")
    assert (cache.addresses, cache.tls, cache.password, cache.abort_on_connect_fail) == (
        (Endpoint("contoso.redis.cache.windows.net", 6380),),
        True,
        "abc+/=",
        False,
    )
    managed = parse("contoso.westeurope.redis.azure.net:10000,password=abc=,abortConnect=False")
    assert (managed.addresses[0].port, managed.tls, managed.protocol, managed.password) == (10000, True, 3, "abc=")
    implied = parse("contoso.redis.cache.windows.net,ssl=true,password=x")
    assert implied.addresses[0].port == 6380
    for options in (cache, managed):
        context = make_tls_context(options)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Secured]:
    """A server with TLS and a password, as Azure's are."""
    yield from start(tmp_path, demand=False, password="abc=")


@pytest.mark.row("S6")
async def test_string_of_azure_over_tls(locked: Secured) -> None:
    """The string works end to end; only its name leads to this machine instead."""
    options = parse("contoso.westeurope.redis.azure.net:10000,password=abc=,ssl=True,abortConnect=False")
    options = replace(options, endpoints=(Endpoint("localhost", locked.port),), tls_ca_file=locked.ca)
    await exchange(RedisBackplane(options))


def test_options_show_no_key_password() -> None:
    """The password of a key is in no repr."""
    assert "hunter2" not in repr(RedisOptions(tls_client_certificate="a", tls_client_key_password="hunter2"))
