from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.armor import MAX_ARMOR_BYTES, unwrap, wrap
from smartserver_licensed.documents.envelope import MAX_DOCUMENT_BYTES
from smartserver_licensed.domain.errors import ArmorError
from support.documents import GRANT, sealed

DOCUMENT = sealed(GRANT)
BLOCK = wrap(DOCUMENT)
LINES = BLOCK.splitlines()
SHORT = wrap(b"A document of more than one line, so that lines can be swapped, doubled and left out of it.")


def test_a_block_has_exactly_this_form() -> None:
    assert wrap(b"hello" * 10) == (
        "-----BEGIN SMARTSERVER LICENSE DOCUMENT-----\n"
        "aGVsbG9oZWxsb2hlbGxvaGVsbG9oZWxsb2hlbGxvaGVsbG9oZWxsb2hlbGxvaGVs 592f\n"
        "bG8= 2925\n"
        "sha256:1d4846d65c1705e8\n"
        "-----END SMARTSERVER LICENSE DOCUMENT-----\n"
    )


def test_a_document_comes_back_byte_for_byte() -> None:
    assert unwrap(BLOCK.encode()) == DOCUMENT


@given(st.binary(max_size=400))
def test_any_bytes_come_back(data: bytes) -> None:
    assert unwrap(wrap(data).encode()) == data


def test_a_document_needs_no_block() -> None:
    for data in (DOCUMENT, b" \r\n\t" + DOCUMENT, b"{"):
        assert unwrap(data) is data


def test_lines_are_short_enough_for_every_mailer() -> None:
    assert max(map(len, LINES)) <= 72
    assert BLOCK.isascii()


@pytest.mark.parametrize(
    "abuse",
    [
        lambda block: block.replace("\n", "\r\n"),
        lambda block: block.replace("\n", "\r"),
        lambda block: block.replace("\n", "\n\n"),
        lambda block: block.replace("\n", "  \t\n"),
        lambda block: re.sub("^", "> ", block, flags=re.MULTILINE),
        lambda block: re.sub("^", ">>> ", block, flags=re.MULTILINE),
        lambda block: re.sub("^", "> > >", block, flags=re.MULTILINE),
        lambda block: re.sub("^", "\t    ", block, flags=re.MULTILINE),
        lambda block: re.sub("^", "\N{NO-BREAK SPACE}> ", block, flags=re.MULTILINE),
        lambda block: re.sub(r"(?<=\S) (?=[0-9a-f]{4}$)", "\N{NO-BREAK SPACE}", block, flags=re.MULTILINE),
        lambda block: re.sub(r"(?<=\S) (?=[0-9a-f]{4}$)", "\n> ", block, flags=re.MULTILINE),
        lambda block: re.sub(r"(?<=\S) (?=[0-9a-f]{4}$)", "   ", block, flags=re.MULTILINE),
        lambda block: f"Dear vendor,\n\nhere is the request. Best – J. Müller\n\n{block}\n-- \nPlant 3\n",
        lambda block: f"\N{ZERO WIDTH NO-BREAK SPACE}\n{block.rstrip()}",
    ],
)
def test_what_e_mail_does_to_the_room_between_characters_is_forgiven(abuse: Callable[[str], str]) -> None:
    assert unwrap(abuse(BLOCK).encode()) == DOCUMENT


def test_the_text_around_a_block_may_be_in_another_encoding() -> None:
    assert unwrap(f"Grüße\n{BLOCK}\nJ. Müller".encode("latin-1")) == DOCUMENT
    spaced = re.sub(r"(?<=\S) (?=[0-9a-f]{4}$)", "\N{NO-BREAK SPACE}", BLOCK, flags=re.MULTILINE)
    assert unwrap(spaced.encode("latin-1")) == DOCUMENT


@pytest.mark.parametrize(
    "other", ["a", "A", "0", "=", "/", " ", "\n", ">", "-", "\x00", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_every_changed_character_is_found(other: str) -> None:
    """Changed room between characters may be forgiven: then it is the same document."""
    document = unwrap(SHORT.encode())
    for at, was in enumerate(SHORT):
        changed = (SHORT[:at] + other + SHORT[at + 1 :]).encode()
        if other == was:
            continue
        if was.isspace() or (other == ">" and SHORT[at - 1] == "\n"):
            try:
                assert unwrap(changed) == document
            except ArmorError:
                continue
        else:
            with pytest.raises(ArmorError):
                unwrap(changed)


def test_every_character_in_the_wrong_case_is_found() -> None:
    for at, was in enumerate(SHORT):
        if was.swapcase() != was:
            with pytest.raises(ArmorError):
                unwrap((SHORT[:at] + was.swapcase() + SHORT[at + 1 :]).encode())


def test_every_character_left_out_or_swapped_with_the_next_is_found() -> None:
    for at in range(len(SHORT) - 1):
        if SHORT[at].isspace():
            continue
        with pytest.raises(ArmorError):
            unwrap((SHORT[:at] + SHORT[at + 1 :]).encode())
        if SHORT[at + 1] != SHORT[at]:
            with pytest.raises(ArmorError):
                unwrap((SHORT[:at] + SHORT[at + 1] + SHORT[at] + SHORT[at + 2 :]).encode())


def test_a_changed_line_is_named() -> None:
    for number in range(1, len(LINES) - 1):
        first = LINES[number][0]
        lines = [*LINES[:number], ("b" if first == "a" else "a") + LINES[number][1:], *LINES[number + 1 :]]
        with pytest.raises(ArmorError, match=f"line {number} has changed"):
            unwrap("\n".join(lines).encode())


def test_a_line_that_is_missing_doubled_or_swapped_is_named() -> None:
    for number in range(1, len(LINES) - 2):
        before, after = LINES[:number], LINES[number + 1 :]
        with pytest.raises(ArmorError, match=f"line {number} has changed, or one before it is missing"):
            unwrap("\n".join([*before, *after]).encode())
        doubled = number + (number < len(LINES) - 3)  # the last one is shorter, and not the last any more
        with pytest.raises(ArmorError, match=f"line {doubled} has changed"):
            unwrap("\n".join([*before, LINES[number], LINES[number], *after]).encode())
    swapped = [*LINES[:2], LINES[3], LINES[2], *LINES[4:]]
    with pytest.raises(ArmorError, match="line 2 has changed"):
        unwrap("\n".join(swapped).encode())


def test_two_lines_with_the_same_content_swapped_with_their_checksums_are_found() -> None:
    block = wrap(b"hello " * 48).splitlines()
    assert block[1][:64] == block[3][:64]
    with pytest.raises(ArmorError, match="line 1"):
        unwrap("\n".join([block[0], block[3], block[2], block[1], *block[4:]]).encode())


def test_a_part_of_one_block_in_another_is_found() -> None:
    """Every line is right by itself; only the whole is not."""
    other = wrap(b"B" * 48 + unwrap(SHORT.encode())[48:]).splitlines()
    mine = SHORT.splitlines()
    with pytest.raises(ArmorError, match="line 3 has changed"):
        unwrap("\n".join([mine[0], other[1], *mine[2:]]).encode())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON, and no block"),
        ("a license, please", "no JSON, and no block"),
        (BLOCK.replace("BEGIN", "BEGINN"), "no JSON, and no block"),
        ("\n".join(LINES[:-1]), "last 0 times"),
        (BLOCK + BLOCK, "first line is there 2 times"),
        ("\n".join([LINES[-1], *LINES[1:-1], LINES[0]]), "empty"),
        (f"{LINES[0]}\n\n{LINES[-1]}", "empty"),
        (f"{LINES[0]}\n{LINES[1]}\n{LINES[-1]}", "line 1 has changed"),
    ],
)
def test_what_is_no_whole_block_is_refused(text: str, why: str) -> None:
    with pytest.raises(ArmorError, match=why):
        unwrap(text.encode())


def test_base64_with_spare_bits_is_refused_even_with_right_checksums() -> None:
    good = wrap(b"hello")
    assert "aGVsbG8=" in good
    with pytest.raises(ArmorError):
        unwrap(good.replace("aGVsbG8=", "aGVsbG9=").encode())


def test_size_is_bounded_on_both_sides() -> None:
    largest = wrap(bytes(MAX_DOCUMENT_BYTES))
    assert unwrap(largest.encode()) == bytes(MAX_DOCUMENT_BYTES)
    assert unwrap(re.sub("^", ">> ", largest, flags=re.MULTILINE).encode()) == bytes(MAX_DOCUMENT_BYTES)
    with pytest.raises(ArmorError, match="65537 bytes, the limit is 65536"):
        wrap(bytes(MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(ArmorError, match="262145 bytes, the limit is 262144"):
        unwrap(BLOCK.ljust(MAX_ARMOR_BYTES + 1).encode())


@given(st.binary(max_size=300))
@settings(max_examples=1_000)
def test_random_bytes_give_nothing_but_the_error_tree(data: bytes) -> None:
    with pytest.raises(ArmorError):
        unwrap(b"x" + data)
    with pytest.raises(ArmorError):
        unwrap(LINES[0].encode() + b"\n" + data + b"\n" + LINES[-1].encode())


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_block_gives_the_document_or_the_error_tree(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SHORT) - 1))
    mutated = SHORT[:at] + data.draw(st.text(max_size=3)) + SHORT[at + data.draw(st.integers(0, 70)) :]
    whole = mutated.encode() if mutated.lstrip().startswith("{") else unwrap(SHORT.encode())  # a document is no block
    with contextlib.suppress(ArmorError):
        assert unwrap(mutated.encode()) == whole
