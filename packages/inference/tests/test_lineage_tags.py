"""Tests of phylogenetic tags."""

import pytest

import subquad.inference
from subquad.inference import sequence_files
from subquad.inference.errors import InvalidOption
from subquad.inference.lineage_tags import phylogenetic_tag, without_tags

WHOLE = "|d__Bacteria;p__Pseudomonadota;c__G;o__E;f__E;g__Escherichia;s__Escherichia coli|"


@pytest.mark.parametrize("text", [WHOLE, WHOLE.strip("|"), WHOLE.strip("|") + ";"])
def test_a_whole_lineage_stays_as_it_is(text):
    assert phylogenetic_tag(text) == WHOLE


def test_missing_ranks_read_none():
    assert phylogenetic_tag("d__Archaea; s__X y") == "|d__Archaea;p__None;c__None;o__None;f__None;g__None;s__X y|"


@pytest.mark.parametrize("text", ["", "Bacteria", "x__A", "p__A;d__B", "d__A;d__B", "d__", "d__A|ACGT"])
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidOption, match="accepted: ranks such as d__Bacteria"):
        phylogenetic_tag(text)


def test_only_complete_tags_are_left_out_of_a_check():
    assert without_tags("|d__B|AC|x") == "NNNNNNAC|x"


def test_the_exported_name_is_the_function_whatever_was_imported_before():
    """No module bears the name of what it defines: importing it would put it in the function's place."""
    assert sequence_files.__name__ == "subquad.inference.sequence_files"
    assert subquad.inference.phylogenetic_tag is phylogenetic_tag
