"""A repository of a test's own, and the events that happen in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.workflows.runner.events import BRANCH, Event

WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")


@dataclass
class Repository:
    """A git repository on disk; its files are changed by commits alone."""

    folder: Path

    @classmethod
    def of(cls, source: Path, folder: Path, changes: Mapping[str, str] | None = None) -> Repository:
        """A new repository with the files that a checkout would commit now, and some changes."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
        for name in filter(None, listed):
            if (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, folder / name)
        return cls.new(folder, changes or {})

    @classmethod
    def new(cls, folder: Path, files: Mapping[str, str]) -> Repository:
        """A new repository with what lies in the folder, and these files."""
        folder.mkdir(parents=True, exist_ok=True)
        repository = cls(folder)
        repository.git("init", "--quiet", "--initial-branch=main")
        repository.commit(files)
        return repository

    def git(self, *arguments: str) -> str:
        """Call git."""
        done = subprocess.run(["git", *WHO, *arguments], cwd=self.folder, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    @property
    def head(self) -> str:
        """The newest commit."""
        return self.git("rev-parse", "HEAD")

    def commit(self, files: Mapping[str, str | None], message: str = "a change") -> str:
        """Write files (None deletes one) and commit them."""
        for name, text in files.items():
            path = self.folder / name
            if text is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.head

    def push(self, files: Mapping[str, str | None], *, branch: str = "main") -> Event:
        """A commit on a branch: what a merge is to the workflows."""
        before = self.head
        after = self.commit(files)
        return Event("push", after, ref=f"{BRANCH}{branch}", changed=self.changed(before, after))

    def pull_request(self, files: Mapping[str, str | None], *, fork: bool = False, head: str = "a-branch") -> Event:
        """A commit that somebody wants to have merged."""
        before = self.head
        after = self.commit(files)
        return Event("pull_request", after, changed=self.changed(before, after), fork=fork, head=head)

    def dispatch(self, **inputs: str) -> Event:
        """Somebody starts a workflow by hand."""
        return Event("workflow_dispatch", self.head, inputs=inputs)

    def schedule(self, cron: str) -> Event:
        """The time of a schedule has come."""
        return Event("schedule", self.head, cron=cron)

    def changed(self, before: str, after: str) -> tuple[str, ...]:
        """Paths that differ."""
        return tuple(self.git("diff", "--name-only", before, after).splitlines())
