"""The examples of GitHub's own cheat sheet for filter patterns."""

from __future__ import annotations

import pytest

from tests.workflows.runner.patterns import matches

YES = [
    ("feature/*", "feature/my-branch"),
    ("feature/**", "feature/beta-a/my-branch"),
    ("releases/mona-the-octocat", "releases/mona-the-octocat"),
    ("*", "main"),
    ("**", "all/the/branches"),
    ("*feature", "mona-feature"),
    ("v2*", "v2.9"),
    ("v[12].[0-9]+.[0-9]+", "v1.10.1"),
    ("*.jsx?", "page.js"),
    ("*.jsx?", "page.jsx"),
    ("**.js", "src/js/app.js"),
    ("docs/*", "docs/README.md"),
    ("docs/**", "docs/mona/octocat.txt"),
    ("docs/**/*.md", "docs/README.md"),
    ("docs/**/*.md", "docs/a/markdown/file.md"),
    ("**/docs/**", "dir/docs/my-file.txt"),
    ("**/docs/**", "docs/hello.md"),
    ("**/README.md", "README.md"),
    ("**/*src/**", "a/src/app.js"),
    ("**/*src/**", "my-src/code/js/app.js"),
    ("**/migrate-*.sql", "db/sept/migrate-v1.sql"),
]
NO = [
    ("feature/*", "feature/a/b"),
    ("*", "src/app.js"),
    ("*.js", "src/app.js"),
    ("docs/*", "docs/a/b.md"),
    ("v2*", "v1"),
]


@pytest.mark.parametrize(("pattern", "name"), YES)
def test_what_matches(pattern: str, name: str) -> None:
    assert matches([pattern], name)


@pytest.mark.parametrize(("pattern", "name"), NO)
def test_what_does_not(pattern: str, name: str) -> None:
    assert not matches([pattern], name)


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = ["data/**", "!data/payloads/**", "data/payloads/one.json"]
    assert matches(patterns, "data/bundled/a.jsonl")
    assert not matches(patterns, "data/payloads/two.json")
    assert matches(patterns, "data/payloads/one.json")
