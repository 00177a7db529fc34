"""Which rows are taken: the first part of a split, or one split cut in two."""

from __future__ import annotations

import hashlib

TEST_SHARE_PERCENT = 20


def first_rows(rows: int, percent: float) -> int:
    """Returns how many rows the slice ``[:percent%]`` holds, rounded as ``datasets`` rounds it."""
    return round(rows * percent / 100)


def cut(rows: int, *, seed: int, test_percent: int = TEST_SHARE_PERCENT) -> bytes:
    """Says for each row whether it goes to test (1) or train (0).

    The share is exact (test gets the fraction of a row, as in ``train_test_split``). Rows are ranked by a hash of
    seed and number, which no version of a random number generator can change.

    Args:
        rows: how many there are.
        seed: another seed, another cut.
        test_percent: share of the test side.

    Returns:
        One byte for each row.
    """
    tests = -(-rows * test_percent // 100)
    key = str(seed).encode()
    ranked = sorted(
        range(rows), key=lambda row: hashlib.blake2b(row.to_bytes(8, "big"), digest_size=8, salt=_salt(key)).digest()
    )
    sides = bytearray(rows)
    for row in ranked[:tests]:
        sides[row] = 1
    return bytes(sides)


def _salt(key: bytes) -> bytes:
    return key if len(key) <= hashlib.blake2b.SALT_SIZE else hashlib.blake2b(key, digest_size=16).digest()
