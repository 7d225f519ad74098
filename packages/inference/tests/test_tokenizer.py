"""Tests of the byte tokenizer."""

import pytest

from subquad.inference.errors import InvalidOption, InvalidSequence, UnencodableCharacter
from subquad.inference.tokenizer import ByteTokenizer


def test_each_byte_is_the_id_of_the_same_number():
    assert ByteTokenizer().encode("ACGTN") == [65, 67, 71, 84, 78]


def test_case_is_kept():
    assert ByteTokenizer().encode("acgt") == [97, 99, 103, 116]


def test_all_256_bytes_round_trip():
    tokenizer, data = ByteTokenizer(), bytes(range(256))
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_printable_text_round_trips():
    tokenizer, text = ByteTokenizer(), "".join(chr(i) for i in range(32, 127))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decoding_gives_one_character_for_each_id():
    tokenizer = ByteTokenizer()
    assert len(tokenizer.decode(range(512))) == 512
    assert tokenizer.decode([0, 65, 200, 511]) == "\ufffdA\ufffd\ufffd"


def test_a_character_outside_ascii_is_named_with_its_position():
    with pytest.raises(UnencodableCharacter, match=r"prompts\[2\] has the character 'é' \(U\+00E9\) at position 3"):
        ByteTokenizer().encode("ACGé", field="prompts[2]")


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(InvalidSequence, match="512 at position 1; accepted: 0 to 511"):
        ByteTokenizer().decode([65, 512])
    with pytest.raises(InvalidSequence, match="256 at position 0"):
        ByteTokenizer().decode_bytes([256])


def test_a_vocabulary_below_one_byte_is_refused():
    with pytest.raises(InvalidOption, match="vocab_size is 4"):
        ByteTokenizer(4)
