"""What a row must be, and the one pass that decides it.

A row is ``{"prompt": str, "prompt_id": str, "messages": [{"content": str, "role": str}, ...]}``, the schema of
ultrachat_200k. Further columns are allowed and left out of what is written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache

import msgspec
import xxhash

FILE = "file"
"""The one rule that a file breaks as a whole, not one of its rows."""
RULES: dict[str, str] = {
    FILE: "the file as a whole can be read",
    "json": "each line is one JSON object",
    "truncated": "the last line is whole",
    "encoding": "the text is UTF-8",
    "too_long": "a row is no longer than the limit",
    "schema": "prompt and prompt_id are strings, messages a list of {content, role} with strings",
    "roles": "an optional system message, then user and assistant in turn; the assistant last (in gen splits either)",
    "empty_content": "no message is empty",
    "prompt": "prompt equals the first user message",
    "duplicate_id": "a prompt_id stands in a split once",
    "leak": "no conversation is in train and in test",
}
"""Every rule, in the order in which it is looked at; a row is counted under the first that it breaks."""

BUCKETS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Upper bounds of the length histogram, in bytes of a row as it is written; longer ones come after."""

QUOTE = ord('"')
# By the first byte of a string's JSON: whether the string is surely not empty, not white space.
VISIBLE = bytes(32 < byte < 127 and chr(byte) not in '"\\' for byte in range(256))
# Escapes that could also be written otherwise: of a character by its number, of a slash.
OTHER_FORM = re.compile(rb"\\[u/]")
# Characters that JSON allows inside strings but that many readers (str.splitlines among them) take for a line's end.
LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class RowInvalid(ValueError):
    """A row breaks a rule; ``rule`` is a key of RULES."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class Message(msgspec.Struct, gc=False):
    """One turn; the order of the fields is the order in the file."""

    content: str
    role: str


class Row(msgspec.Struct, gc=False):
    """One chat."""

    prompt: str
    prompt_id: str
    messages: list[Message]


class BareRow(msgspec.Struct, gc=False):
    """One chat of a file that may lack what can be derived."""

    messages: list[Message]
    prompt: str | None = None
    prompt_id: str | None = None


class RawMessage(msgspec.Struct, gc=False):
    """One turn whose text stays JSON."""

    content: msgspec.Raw
    role: str


class RawRow(msgspec.Struct, gc=False):
    """One chat whose texts stay JSON: no string is built that would only be written again."""

    prompt: msgspec.Raw
    prompt_id: str
    messages: list[RawMessage]


def is_train(split: str) -> bool:
    """Whether a split is learnt from; all others are for testing."""
    return split.startswith("train")


class Checker:
    """Checks rows one after the other and remembers what it needs to find duplicates.

    Two ways lead to the same bytes. A row that is plainly good is accepted with its texts left as they stand in the
    JSON, which takes a fifth of the time. All others are decoded in full, judged, and written anew.

    Memory: about 200 bytes for each row that passed, for the two sets of hashes.

    Args:
        derive: fill a missing ``prompt`` (the first user message) and ``prompt_id`` (its SHA-256) in.
    """

    def __init__(self, *, derive: bool = False) -> None:
        self._decode: Callable[[bytes], Row] = self._derived if derive else msgspec.json.Decoder(Row).decode
        self._decode_raw = msgspec.json.Decoder(RawRow).decode
        self._bare = msgspec.json.Decoder(BareRow)
        self._encode = msgspec.json.Encoder().encode
        self._derives = derive
        self._ids: dict[str, set[int]] = {}
        self._conversations: dict[bool, set[bytes]] = {True: set(), False: set()}
        self.lengths: dict[str, list[int]] = {}

    def check(self, split: str, line: bytes) -> bytes:
        """Returns the row as it is written, without a newline: these columns, this order, UTF-8.

        Args:
            split: the split that the row will be in.
            line: one row as JSON.

        Raises:
            RowInvalid: with the first rule that the row breaks.
        """
        row: RawRow | Row | None = None if self._derives else self._plainly_good(split, line)
        if row is None:
            row = self._judge(split, line)
            written = self._encode(row)
            if not written.isascii():
                for raw, escaped in LINE_ENDS:
                    written = written.replace(raw, escaped)
        else:
            written = self._encode(row)
        self._remember(row.prompt_id, split, written)
        lengths = self.lengths.get(split)
        if lengths is None:
            lengths = self.lengths[split] = [0] * (len(BUCKETS) + 1)
        # 128 = 2^7 is the first bound, each is twice the one before: the number of bits is the bucket.
        lengths[min(max((len(written) - 1).bit_length() - 7, 0), len(BUCKETS))] += 1
        return written

    def _plainly_good(self, split: str, line: bytes) -> RawRow | None:
        """Returns the row if it breaks no rule and its texts need no rewriting; None says nothing about it."""
        if not line.isascii():
            try:
                text = line.decode()
            except UnicodeDecodeError:
                return None
            if "\u2028" in text or "\u2029" in text or "\x85" in text:
                return None
        if OTHER_FORM.search(line):
            return None
        try:
            row = self._decode_raw(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        messages = row.messages
        if not row.prompt_id:
            return None
        if not _are_in_turn(tuple([message.role for message in messages]), may_end_with_user=split.endswith("_gen")):
            return None
        if row.prompt != messages[messages[0].role == "system"].content:
            return None
        for message in messages:
            text_json = memoryview(message.content)
            if text_json[0] != QUOTE or not VISIBLE[text_json[1]]:
                return None
        return row

    def _judge(self, split: str, line: bytes) -> Row:
        try:
            row = self._decode(line)
        except msgspec.ValidationError as error:
            raise RowInvalid("schema", _schema_reason(str(error))) from None
        except msgspec.DecodeError as error:
            raise RowInvalid("json", str(error)) from None
        except UnicodeDecodeError as error:
            raise RowInvalid("encoding", f"the byte 0x{error.object[error.start]:02x} is not UTF-8 there") from None
        except RecursionError:
            raise RowInvalid("json", "nested too deeply") from None
        _conversation(row, split)
        return row

    def _remember(self, prompt_id: str, split: str, written: bytes) -> None:
        ids = self._ids.setdefault(split, set())
        identity = xxhash.xxh3_64_intdigest(prompt_id.encode())
        if identity in ids:
            raise RowInvalid("duplicate_id", f"prompt_id {shorten(prompt_id)} stood in {split} before")
        # A quote inside a string is escaped, so the first plain '"messages":' is the key.
        conversation = xxhash.xxh3_128_digest(memoryview(written)[written.index(b',"messages":') :])
        train = is_train(split)
        if conversation in self._conversations[not train]:
            other = "a test split" if train else "a training split"
            raise RowInvalid("leak", f"this conversation is also in {other}")
        ids.add(identity)
        self._conversations[train].add(conversation)

    def _derived(self, line: bytes) -> Row:
        bare = self._bare.decode(line)
        prompt = bare.prompt
        if prompt is None:
            prompt = next((message.content for message in bare.messages if message.role == "user"), "")
        identity = bare.prompt_id or hashlib.sha256(prompt.encode()).hexdigest()
        return Row(prompt, identity, bare.messages)


@lru_cache(maxsize=4096)
def _are_in_turn(roles: tuple[str, ...], *, may_end_with_user: bool) -> bool:
    """Whether there is an optional system message, then at least one user's and the assistant's in turn."""
    turns = roles[1:] if roles[:1] == ("system",) else roles
    in_turn = all(role == ("user", "assistant")[index % 2] for index, role in enumerate(turns))
    return in_turn and bool(turns) and (may_end_with_user or turns[-1] == "assistant")


def _conversation(row: Row, split: str) -> None:
    """Checks roles, contents and prompt."""
    messages = row.messages
    if not messages:
        raise RowInvalid("roles", "messages is empty")
    first = 1 if messages[0].role == "system" else 0
    expected = "user"
    for index, message in enumerate(messages):
        content = message.content
        if index >= first:
            if message.role != expected:
                raise RowInvalid(
                    "roles", f"messages[{index}] has the role {shorten(message.role)} where {expected!r} must be"
                )
            expected = "assistant" if expected == "user" else "user"
        if not content or content.isspace():
            raise RowInvalid("empty_content", f"messages[{index}] ({message.role}) is empty")
    if len(messages) == first:
        raise RowInvalid("roles", "only a system message")
    if expected == "assistant" and not split.endswith("_gen"):
        raise RowInvalid("roles", f"messages[{len(messages) - 1}] is the user's: the assistant must be last")
    opening = messages[first].content
    # White space around is let pass: corpora that were cleaned once keep it in one place and not in the other.
    if row.prompt != opening and row.prompt.strip() != opening.strip():
        raise RowInvalid("prompt", f"prompt is {shorten(row.prompt)}, the first user message {shorten(opening)}")
    if not row.prompt_id:
        raise RowInvalid("schema", "prompt_id is empty")


def shorten(text: str, limit: int = 40) -> str:
    """Returns a text in quotes, cut to what fits in a message."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _schema_reason(text: str) -> str:
    # msgspec: "Expected `str`, got `null` - at `$.messages[0].content`"
    reason = text.replace("`", "'").replace("'$.", "'").replace("Object missing", "missing").replace(" - at", " at")
    if "'prompt" in reason and ("missing" in reason or "null" in reason):
        reason += " (--derive fills it in)"
    return reason
