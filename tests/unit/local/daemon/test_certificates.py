"""The private authority: signs for Azure's names only, renewed in time, trusted beside the public roots."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
from cryptography import x509

from mlops.local.daemon import certificates
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path, cache=tmp_path)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(trusted: Path, server: ssl.SSLContext, name: str) -> None:
    """Both sides of a TLS handshake in memory; raises SSLError where the client does not trust."""
    client = ssl.create_default_context(cafile=str(trusted))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname=name)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[int] = set()
    for _ in range(10):
        for side in (left, right):
            if id(side) not in done:
                try:
                    side.do_handshake()
                    done.add(id(side))
                except ssl.SSLWantReadError:
                    pass
    assert len(done) == 2


@pytest.mark.parametrize(
    "name",
    [
        "login.microsoftonline.com",
        "management.azure.com",
        "ml.azure.com",
        "eastus.api.azureml.ms",
        "mlopslocal.blob.core.windows.net",
        "my-endpoint.eastus.inference.ml.azure.com",
    ],
)
def test_clients_accept_azures_names(layout: Layout, name: str) -> None:
    files = certificates.ensure(layout, Config())
    handshake(files.bundle, files.context(), name)


def test_other_names_are_not_on_it(layout: Layout) -> None:
    files = certificates.ensure(layout, Config())
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'example\.org'"):
        handshake(files.bundle, files.context(), "example.org")


def test_the_authority_cannot_sign_for_others(layout: Layout) -> None:
    """Even with its key a thief makes no certificate for another site that the bundle's users accept."""
    files = certificates.ensure(layout, Config())
    authority = certificates._load(files.ca, files.ca_key)
    assert authority is not None
    certificates._save(files.leaf, files.leaf_key, *certificates._make_leaf(authority, ["example.org"]))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(files.bundle, files.context(), "example.org")


def test_files_are_kept_while_they_are_good(layout: Layout) -> None:
    files = certificates.ensure(layout, Config())
    before = files.leaf.read_bytes(), files.ca.read_bytes()
    certificates.ensure(layout, Config())
    assert (files.leaf.read_bytes(), files.ca.read_bytes()) == before


def test_what_expires_soon_is_renewed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LEAF_DAYS", 10)
    files = certificates.ensure(layout, Config())
    monkeypatch.undo()
    old, ca = load(files.leaf), files.ca.read_bytes()
    certificates.ensure(layout, Config())
    assert load(files.leaf).serial_number != old.serial_number
    assert load(files.leaf).not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)
    assert files.ca.read_bytes() == ca, "shells that trust the authority go on"


def test_another_region_gets_its_names(layout: Layout) -> None:
    files = certificates.ensure(layout, Config())
    certificates.ensure(layout, Config(region="westeurope"))
    handshake(files.bundle, files.context(), "a.westeurope.inference.ml.azure.com")


@pytest.mark.parametrize("name", ["ca.key", "leaf.key", "ca.pem", "leaf.pem"])
def test_a_broken_file_is_replaced(layout: Layout, name: str) -> None:
    certificates.ensure(layout, Config())
    (layout.tls / name).write_text("rubbish")
    files = certificates.ensure(layout, Config())
    handshake(files.bundle, files.context(), "management.azure.com")


def test_the_bundle_holds_the_public_roots_and_what_was_trusted_before(layout: Layout, tmp_path: Path) -> None:
    other = Layout(root=tmp_path / "other", cache=tmp_path)
    company = certificates.ensure(other, Config()).ca
    files = certificates.ensure(layout, Config(), outer_bundle=str(company))
    text = files.bundle.read_text()
    public = certificates.PEM.findall(Path(certifi.where()).read_text())
    assert len(public) > 50
    assert set(public) < set(certificates.PEM.findall(text))
    assert company.read_text().strip() in text
    assert files.ca.read_text() in text


def test_a_root_stands_in_the_bundle_once(layout: Layout) -> None:
    files = certificates.ensure(layout, Config(), outer_bundle=certifi.where())
    roots = certificates.PEM.findall(files.bundle.read_text())
    assert len(roots) == len(set(roots))


def test_the_authority_of_another_workspace_is_not_taken_over(layout: Layout, tmp_path: Path) -> None:
    other = certificates.ensure(Layout(root=tmp_path / "other", cache=tmp_path), Config())
    files = certificates.ensure(layout, Config(), outer_bundle=str(other.bundle))
    assert other.ca.read_text() not in files.bundle.read_text()
