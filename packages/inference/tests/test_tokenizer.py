"""Tests of the tokenizers."""

import pytest

from subquad.inference.errors import InvalidOption, InvalidSequence, UnencodableCharacter
from subquad.inference.tokenizer import ByteTokenizer, NucleotideTokenizer, Tokenizer, tokenizer_of


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


def test_the_nucleotide_table_has_five_special_tokens_and_then_every_character_at_its_code_point():
    tokenizer = NucleotideTokenizer()
    assert len(tokenizer.table) == 512
    assert tokenizer.table[:5] == ("<EOS>", "<PAD>", "<BOS>", "<SEP>", "<UNK>")
    for i, text in enumerate(tokenizer.table):
        if i >= 5:
            assert (text, tokenizer.encode(text), tokenizer.decode([i])) == (chr(i), [i], text)
        else:
            assert (tokenizer.encode(chr(i)), tokenizer.decode([i])) == ([4], "\ufffd")
    assert (tokenizer.eod_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.sep_id) == (0, 1, 2, 3)


def test_both_tokenizers_agree_on_ascii_and_differ_beyond():
    text = "".join(chr(i) for i in range(5, 128))
    assert NucleotideTokenizer().encode(text) == ByteTokenizer().encode(text)
    assert NucleotideTokenizer().encode("Aé\u01ff\u0200") == [65, 0xE9, 511, 4]
    assert NucleotideTokenizer(256).encode("é\u0100") == [0xE9, 4]


def test_the_names_of_special_tokens_in_a_text_are_plain_characters():
    assert NucleotideTokenizer().encode("<EOS>") == [60, 69, 79, 83, 62]


def test_a_tokenizer_is_found_by_the_name_that_checkpoints_give_it():
    assert tokenizer_of("byte", 512) == ByteTokenizer(512)
    assert tokenizer_of("nucleotide", 512) == NucleotideTokenizer(512)
    assert isinstance(tokenizer_of("nucleotide", 512), Tokenizer)
    assert NucleotideTokenizer() != ByteTokenizer()
    with pytest.raises(InvalidOption, match="tokenizer is 'bpe'; accepted: one of byte, nucleotide"):
        tokenizer_of("bpe", 512)
    with pytest.raises(InvalidOption, match="vocab_size is 100; accepted: 128 or more"):
        NucleotideTokenizer(100)
    with pytest.raises(InvalidSequence, match="512 at position 0"):
        NucleotideTokenizer().decode([512])
