"""A private certificate authority that can sign for Azure's names and two of GitHub's only and is installed nowhere.

Clients are pointed at a bundle of the public roots plus this authority; nothing else trusts it. Its key and the leaf's
are readable by the owner alone.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mlops.local.daemon import hosts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.private_files import write_private

CA_DAYS = 730
LEAF_DAYS = 365
RENEW_BEFORE = timedelta(days=14)
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
MARK = "# the private authority of a local workspace"


@dataclass(frozen=True)
class Certificates:
    """The files below ``tls/``."""

    ca: Path
    ca_key: Path
    leaf: Path
    leaf_key: Path
    bundle: Path

    @classmethod
    def at(cls, layout: Layout) -> Certificates:
        """Their places; they need not exist yet."""
        folder = layout.tls
        return cls(
            ca=folder / "ca.pem",
            ca_key=folder / "ca.key",
            leaf=folder / "leaf.pem",
            leaf_key=folder / "leaf.key",
            bundle=folder / "bundle.pem",
        )

    def context(self) -> ssl.SSLContext:
        """For the TLS server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.leaf, self.leaf_key)
        return context


def ensure(layout: Layout, config: Config, *, outer_bundle: str | None = None) -> Certificates:
    """Make what is missing, renew what expires soon or lacks a name, write the bundle.

    Args:
        layout: where the files are.
        config: decides the names on the certificate.
        outer_bundle: the bundle that was in force before (a company's own authority lives there); it is kept.
    """
    layout.tls.mkdir(parents=True, exist_ok=True)
    layout.tls.chmod(0o700)
    files = Certificates.at(layout)
    authority = _load(files.ca, files.ca_key)
    if authority is None or not _constraints_hold(authority[0]):
        authority = _make_authority()
        _save(files.ca, files.ca_key, *authority)
        files.leaf.unlink(missing_ok=True)
    leaf = _load(files.leaf, files.leaf_key)
    if leaf is None or not _leaf_holds(leaf[0], authority[0], config):
        _save(files.leaf, files.leaf_key, *_make_leaf(authority, hosts.certificate_names(config)))
    _write_bundle(files, outer_bundle)
    return files


Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _load(certificate: Path, key: Path) -> Pair | None:
    """A pair that is readable, belongs together and stays valid for a while."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
        return None
    if loaded.not_valid_after_utc - RENEW_BEFORE < datetime.now(UTC):
        return None
    key.chmod(0o600)
    return loaded, private


def _save(certificate: Path, key: Path, made: x509.Certificate, private: ec.EllipticCurvePrivateKey) -> None:
    pem = serialization.Encoding.PEM
    raw = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(key, raw)
    write_private(certificate, made.public_bytes(pem))


def _builder(
    subject: str, issuer: x509.Name | None, days: int, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    begin = datetime.now(UTC) - timedelta(hours=1)  # clocks of containers differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _make_authority() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    permitted = [x509.DNSName(name) for name in hosts.constrained_names()]
    made = (
        _builder(f"mlops local workspace {os.urandom(4).hex()}", None, CA_DAYS, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made, key


def _make_leaf(authority: Pair, names: list[str]) -> Pair:
    certificate, authority_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    made = (
        _builder("mlops local workspace server", certificate.subject, LEAF_DAYS, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return made, key


def _constraints_hold(authority: x509.Certificate) -> bool:
    try:
        permitted = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        return False
    return {name.value for name in permitted} == set(hosts.constrained_names())


def _leaf_holds(leaf: x509.Certificate, authority: x509.Certificate, config: Config) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
        alternative_names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return False
    except Exception:
        return False
    return set(alternative_names.get_values_for_type(x509.DNSName)) >= set(hosts.certificate_names(config))


def _write_bundle(files: Certificates, outer_bundle: str | None) -> None:
    """The public roots, what the shell trusted before, and the private authority; each once: clients parse them all."""
    import certifi

    sources = [Path(certifi.where())]
    if outer_bundle and Path(outer_bundle).is_file():
        sources.append(Path(outer_bundle))
    unique: dict[str, None] = {}
    for source in sources:
        text = source.read_text(encoding="utf-8", errors="replace").split(MARK)[0]  # another workspace's is not ours
        unique |= dict.fromkeys(PEM.findall(text))
    text = "\n".join([*unique, MARK, files.ca.read_text(encoding="utf-8")])
    write_private(files.bundle, text.encode())
