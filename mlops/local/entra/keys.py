"""Keys that sign tokens, kept beside the certificates; made when first needed."""

from __future__ import annotations

from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mlops.local.state.layout import Layout
from mlops.local.state.private_files import write_private


def signing_key(layout: Layout, name: str) -> rsa.RSAPrivateKey:
    """The key of that file name, a new one where there is none that can be read."""
    path = layout.tls / name
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, rsa.RSAPrivateKey):
            path.chmod(0o600)
            return key
    except (OSError, ValueError):
        pass
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    write_private(path, made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made


def public_pem(key: rsa.RSAPrivateKey) -> str:
    """Its public half as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def public_jwk(key: rsa.RSAPrivateKey, key_id: str) -> dict[str, Any]:
    """Its public half as a key set lists it."""
    jwk: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "use": "sig", "kid": key_id, "x5t": key_id, "alg": "RS256"}
