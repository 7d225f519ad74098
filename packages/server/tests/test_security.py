"""Bind addresses, TLS, mTLS and tokens."""

from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from packages.server.tests.running_server import RunningServer
from subquad.server import Connection, GenomicsClient, PermissionDenied, SettingsError, Unauthenticated, Unavailable
from subquad.server.hosting import ServerSettings
from subquad.server.security import BindAddress, Security, TokenTable, parse_bind

TLS = Path(__file__).parent / "data" / "tls"
SERVER = {"certificate": TLS / "server.pem", "private_key": TLS / "server.key"}
ROOTS = (TLS / "ca.pem").read_bytes()


def pair(name):
    return {
        "client_certificate": (TLS / f"{name}.pem").read_bytes(),
        "client_key": (TLS / f"{name}.key").read_bytes(),
    }


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:50051", BindAddress("127.0.0.1", 50051), True),
        ("127.8.9.1:0", BindAddress("127.8.9.1", 0), True),
        ("localhost", BindAddress("localhost", 50051), True),
        ("[::1]:7", BindAddress("::1", 7), True),
        ("::1", BindAddress("::1", 50051), True),
        ("0.0.0.0:1", BindAddress("0.0.0.0", 1), False),
        ("[::]:1", BindAddress("::", 1), False),
        ("10.1.2.3", BindAddress("10.1.2.3", 50051), False),
        ("localhost.example.org:1", BindAddress("localhost.example.org", 1), False),
    ],
)
def test_an_address_is_read_and_known_as_loopback_or_not(text, address, loopback):
    assert parse_bind(text) == address
    assert address.is_loopback is loopback
    assert parse_bind(str(address)) == address


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:x", "host:65536", "host:-1", "host:\u0661", "[::1]x"])
def test_a_text_that_is_no_address_is_refused(text):
    with pytest.raises(SettingsError, match="accepted: HOST:PORT"):
        parse_bind(text)


@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]:50051", "192.168.0.1:0", "myhost:50051"])
def test_plaintext_beyond_this_machine_is_refused_unless_allowed(bind):
    with pytest.raises(SettingsError, match="--allow-plaintext"):
        ServerSettings(bind=bind)
    assert ServerSettings(bind=bind, security=Security(allow_plaintext=True))
    assert ServerSettings(bind=bind, security=Security(**SERVER))


def test_half_a_pair_of_tls_files_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="go together"):
        Security(certificate=TLS / "server.pem")
    with pytest.raises(SettingsError, match="needs tls-certificate"):
        Security(client_ca=TLS / "ca.pem")
    with pytest.raises(SettingsError, match="No such file"):
        Security(certificate=tmp_path / "none", private_key=TLS / "server.key").credentials()
    with pytest.raises(SettingsError, match="is no PEM file"):
        Security(certificate=Path(__file__), private_key=TLS / "README.md").credentials()


def refused(target, **connection):
    with GenomicsClient(Connection(target, **connection), timeout=10) as client:
        assert not client.is_serving(timeout=3)
        with pytest.raises(Unavailable):
            client.get_model(timeout=3)


def test_tls_admits_who_verifies_the_server_and_refuses_plaintext():
    with RunningServer(security=Security(**SERVER)) as server:
        with GenomicsClient(Connection(server.address, root_certificates=ROOTS), timeout=10) as client:
            assert client.is_serving()
            assert client.score(["ACGT"])
        refused(server.address)
        refused(server.address, root_certificates=(TLS / "other_ca.pem").read_bytes())


def test_mutual_tls_admits_only_certificates_of_the_given_authority():
    with RunningServer(security=Security(**SERVER, client_ca=TLS / "ca.pem")) as server:
        with GenomicsClient(
            Connection(server.address, root_certificates=ROOTS, **pair("client")), timeout=10
        ) as client:
            assert client.score(["ACGT"])
        refused(server.address, root_certificates=ROOTS)
        refused(server.address, root_certificates=ROOTS, **pair("stranger"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("# who may do what\nall-of-it\n\nscores-only ScoreSequences,GetModel extra\n")
    with RunningServer(security=Security(tokens=TokenTable.read(path))) as server:
        yield server


@pytest.mark.parametrize("token", [None, "", "wrong", "all-of-it ", "*", "#"])
def test_without_a_valid_token_every_method_is_unauthenticated_and_health_stays_open(guarded, token):
    with GenomicsClient(Connection(guarded.address, token=token), timeout=10) as client:
        assert client.is_serving()
        if token == "all-of-it ":
            return
        for call in (client.get_model, lambda: client.score([]), lambda: client.generate("").result()):
            with pytest.raises(Unauthenticated, match="a valid bearer token is needed"):
                call()


def test_a_token_opens_the_methods_that_it_names(guarded):
    with GenomicsClient(Connection(guarded.address, token="all-of-it"), timeout=10) as client:
        assert client.score(["ACGT"])
        assert client.generate("ACGT", max_new_tokens=1).result()
    with GenomicsClient(Connection(guarded.address, token="scores-only"), timeout=10) as client:
        assert client.get_model().name == "tiny"
        assert client.score(["ACGT"])
        with pytest.raises(PermissionDenied, match="does not allow this method"):
            client.generate("ACGT", max_new_tokens=1).result()


def test_reflection_needs_a_token_too(guarded):
    with grpc.insecure_channel(guarded.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(database.get_services())


def test_another_scheme_than_bearer_is_unauthenticated():
    table = TokenTable({})
    table.check("/any/Method", ())
    import hashlib

    table = TokenTable({hashlib.sha256(b"t").digest(): frozenset({"*"})})
    table.check("/any/Method", (("authorization", "bearer t"),))
    for metadata in ((), (("authorization", "Basic t"),), (("authorization", "t"),), (("authorization", "Bearer  t"),)):
        with pytest.raises(Unauthenticated):
            table.check("/any/Method", metadata)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\u00e9\n"])
def test_a_file_without_a_token_is_refused(tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(SettingsError, match="token"):
        TokenTable.read(path)
    with pytest.raises(SettingsError, match="No such file"):
        TokenTable.read(tmp_path / "missing")
