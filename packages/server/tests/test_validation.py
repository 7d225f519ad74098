"""Every row of "status per bad input" that a request alone can cause, over the wire."""

import math

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.genomics.v1 import service_pb2 as pb
from subquad.server import InvalidRequest, NotFound, Overloaded, ServingLimits, Variant
from subquad.server.client import typed_errors
from subquad.server.validation import (
    ServedModel,
    plan_generation,
    plan_scoring,
    plan_variants,
    printable,
)

MODEL = ServedModel("tiny", 512, 4096)
LIMITS = ServingLimits()


def generation(**fields):
    return pb.GenerateSequenceRequest(**({"prompt": "ACGT", "max_new_tokens": 4} | fields))


def scoring(*sequences, **fields):
    return pb.ScoreSequencesRequest(sequences=sequences, **fields)


def variants(*changes, window="ACGTACGT", **fields):
    listed = [pb.Variant(offset=o, reference_bases=r, alternate_bases=a) for o, r, a in changes]
    return pb.ScoreVariantsRequest(reference_window=window, variants=listed, **fields)


BAD_GENERATIONS = {
    "an empty prompt": (generation(prompt=""), "prompt", "empty"),
    "a character outside the alphabet": (generation(prompt="ACGTX"), "prompt", "'X' at position 4"),
    "a character outside ASCII": (generation(prompt="A\u00e9", alphabet=2), "prompt", r"'\xe9' at position 1"),
    "a control character": (generation(prompt="A\n", alphabet=2), "prompt", r"'\n' at position 1"),
    "a negative temperature": (generation(sampling={"temperature": -1}), "sampling.temperature", "is -1"),
    "a NaN temperature": (generation(sampling={"temperature": math.nan}), "sampling.temperature", "is nan"),
    "an infinite temperature": (generation(sampling={"temperature": math.inf}), "sampling.temperature", "is inf"),
    "a top_p of zero": (generation(sampling={"top_p": 0.0}), "sampling.top_p", "above 0, at most 1"),
    "a top_p above one": (generation(sampling={"top_p": 1.5}), "sampling.top_p", "is 1.5"),
    "a NaN top_p": (generation(sampling={"top_p": math.nan}), "sampling.top_p", "is nan"),
    "a top_k above the vocabulary": (generation(sampling={"top_k": 513}), "sampling.top_k", "0 (off) to 512"),
    "no new tokens": (generation(max_new_tokens=0), "max_new_tokens", "1 to 4096"),
    "too many new tokens": (generation(max_new_tokens=4097), "max_new_tokens", "1 to 4096"),
    "prompt and new tokens above the model": (
        generation(prompt="A" * 4000, max_new_tokens=97),
        "max_new_tokens",
        "97 after a prompt of 4000 tokens; accepted: at most 4096",
    ),
    "too many samples": (generation(num_samples=17), "num_samples", "1 to 16"),
    "too many stop sequences": (generation(stop_sequences=list("ACGTN")), "stop_sequences", "has 5"),
    "an empty stop sequence": (generation(stop_sequences=["A", ""]), "stop_sequences[1]", "empty"),
    "a long stop sequence": (generation(stop_sequences=["A" * 65]), "stop_sequences[0]", "1 to 64"),
    "a stop sequence outside the alphabet": (generation(stop_sequences=["A-"]), "stop_sequences[0]", "'-'"),
    "an unknown alphabet": (generation(alphabet=9), "alphabet", "is 9"),
    "logits, which are not offered": (generation(return_logits=True), "return_logits", "accepted: false"),
    "a long cache salt": (generation(cache_salt="s" * 129), "cache_salt", "at most 128"),
}
BAD_SCORINGS = {
    "no sequence": (scoring(), "sequences", "empty"),
    "an empty sequence": (scoring("ACGT", ""), "sequences[1]", "empty"),
    "one token without a start": (scoring("A"), "sequences[0]", "at least 2"),
    "a character outside the alphabet": (scoring("AC", "AC", "AC", "ACGU"), "sequences[3]", "'U' at position 3"),
    "a sequence above the model": (scoring("A" * 4097), "sequences[0]", "has 4097 tokens; accepted: at most 4096"),
    "a sequence that only the start token lifts above the model": (
        scoring("A" * 4096, prepend_end_of_document=True),
        "sequences[0]",
        "at most 4095",
    ),
    "too many sequences": (scoring(*["AC"] * 65), "sequences", "has 65 sequences; accepted: at most 64"),
    "an unknown strand": (scoring("AC", strand=7), "strand", "STRAND_BOTH"),
    "an unknown alphabet": (scoring("AC", alphabet=-1), "alphabet", "ALPHABET_DNA"),
    "both strands of text": (scoring("AC", strand=2, alphabet=2), "strand", "STRAND_FORWARD"),
    "log-probabilities of both strands": (scoring("AC", strand=2, return_logprobs=True), "return_logprobs", "false"),
}
BAD_VARIANTS = {
    "no variant": (variants(), "variants", "empty"),
    "an empty window": (variants((0, "", "A"), window=""), "reference_window", "empty"),
    "a window with nothing to score": (variants((0, "A", "C"), window="A"), "reference_window", "at least 2"),
    "another reference": (variants((1, "G", "T")), "variants[0].reference_bases", "differ from the window at offset 1"),
    "an offset past the end": (variants((9, "", "T")), "variants[0].offset", "reaches to 9; accepted: at most 8"),
    "a reference past the end": (variants((7, "TA", "T")), "variants[0].offset", "reaches to 9"),
    "no change": (variants((0, "A", "C"), (2, "", "")), "variants[1].alternate_bases", "empty"),
    "a base outside the alphabet": (variants((0, "A", "Z")), "variants[0].alternate_bases", "'Z' at position 0"),
    "a deletion of nearly everything": (variants((0, "ACGTACG", "")), "variants[0].alternate_bases", "at least 2"),
    "too many variants": (variants(*[(0, "A", "C")] * 1025), "variants", "has 1025 variants; accepted: at most 1024"),
    "an insertion above the model": (variants((0, "", "A" * 4090)), "variants[0].alternate_bases", "at most 4096"),
}


def refused(call, field, said):
    with pytest.raises(InvalidRequest) as caught, typed_errors():
        call()
    found = {violation.field: violation.description for violation in caught.value.violations}
    assert field in found
    assert said in found[field]
    assert caught.value.request_id
    assert len(caught.value.violations) <= 16


@pytest.mark.parametrize("case", BAD_GENERATIONS)
def test_a_bad_generation_names_the_field_and_what_is_accepted(client, case):
    request, field, said = BAD_GENERATIONS[case]
    refused(lambda: list(client._stub.GenerateSequence(request)), field, said)


@pytest.mark.parametrize("case", BAD_SCORINGS)
def test_a_bad_scoring_names_the_field_and_what_is_accepted(client, case):
    request, field, said = BAD_SCORINGS[case]
    refused(lambda: client._stub.ScoreSequences(request), field, said)


@pytest.mark.parametrize("case", BAD_VARIANTS)
def test_a_bad_variant_names_the_field_and_what_is_accepted(client, case):
    request, field, said = BAD_VARIANTS[case]
    refused(lambda: list(client._stub.ScoreVariants(request)), field, said)


def test_too_many_tokens_in_all_are_refused_before_any_work():
    limits = ServingLimits(max_tokens_per_request=100, max_scored_tokens_with_logprobs=20)
    with pytest.raises(InvalidRequest, match="104 tokens in all; accepted: at most 100"):
        plan_scoring(scoring(*["A" * 26] * 2, strand=2), MODEL, limits)
    with pytest.raises(InvalidRequest, match="21 tokens in all with return_logprobs"):
        plan_scoring(scoring("A" * 21, return_logprobs=True), MODEL, limits)
    with pytest.raises(InvalidRequest, match="asks for 101 tokens with the prompt"):
        plan_generation(generation(prompt="A", max_new_tokens=50, num_samples=2), MODEL, limits)
    with pytest.raises(InvalidRequest, match="more than 100 tokens in all their windows"):
        plan_variants(variants(*[(0, "A", "C")] * 12), MODEL, limits)


def test_a_thousand_bad_sequences_give_sixteen_violations_and_not_a_transport_error(client):
    with pytest.raises(InvalidRequest) as caught:
        client.score(["ACGT" * 5 + "X"] * 1000)
    assert len(caught.value.violations) == 16
    assert caught.value.violations[0].field == "sequences"
    assert caught.value.violations[15].field == "sequences[14]"
    assert str(caught.value).endswith("(and 15 more)")


def test_the_longest_texts_that_violations_can_hold_stay_below_the_metadata_limit(client):
    with pytest.raises(InvalidRequest) as caught:
        client.score(["\U0001f600" * 3] * 64, alphabet="ascii")
    assert len(caught.value.violations) == 16


@pytest.mark.parametrize("name", ["other", "TINY", "\u00e9" * 300, "a\nb", " "])
def test_another_model_is_not_found_with_its_resource(client, name):
    calls = [
        lambda: client.get_model(model=name),
        lambda: client.generate("ACGT", model=name).result(),
        lambda: client.score(["ACGT"], model=name),
        lambda: list(client.score_variants("ACGT", [Variant(0, "A", "C")], model=name)),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="accepted: tiny") as caught:
            call()
        assert caught.value.resource is not None
        assert caught.value.resource[0] == "model"


def test_the_served_model_may_be_named(client):
    assert client.get_model(model="tiny").name == "tiny"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": []}, "layers: is empty; accepted: at least 1 of blocks.0 to blocks.1"),
        ({"layers": ["blocks.9"]}, "layers[0]: is 'blocks.9'; accepted: blocks.0 to blocks.1"),
        ({"layers": ["blocks.0", "blocks.0"]}, "layers[1]: is blocks.0 again; accepted: each layer once"),
        ({"layers": ["blocks.0"] * 9}, "layers: has 9 layers; accepted: at most 8"),
        ({"sequences": []}, "sequences: is empty; accepted: at least 1 sequence"),
        ({"sequences": ["ACGT", ""]}, "sequences[1]: is empty; accepted: at least 1 character"),
        ({"sequences": ["AXGT"]}, "sequences[0]: has 'X' at position 1; accepted: A C G T N"),
        ({"sequences": ["A" * 5000]}, "sequences[0]: has 5000 tokens; accepted: at most 4096"),
        ({"pooling": 9}, "pooling: is 9; accepted: POOLING_UNSPECIFIED, POOLING_MEAN, POOLING_LAST, POOLING_NONE"),
        ({"data_type": 9}, "data_type: is 9; accepted: DATA_TYPE_UNSPECIFIED"),
        ({"alphabet": 9}, "alphabet: is 9; accepted: ALPHABET_UNSPECIFIED"),
    ],
)
def test_a_refused_field_of_an_embedding_is_named(client, change, said):
    request = pb.EmbedSequencesRequest(**{"sequences": ["ACGT"], "layers": ["blocks.0"], **change})
    with pytest.raises(InvalidRequest) as caught, typed_errors():
        list(client._stub.EmbedSequences(request))
    assert said in str(caught.value)


def test_a_message_above_the_limit_is_resource_exhausted(client):
    with pytest.raises(Overloaded):
        client.score(["A" * (9 << 20)])
    assert client.score(["ACGT"])


def test_numbers_that_fit_no_field_are_refused_by_the_client_itself(client):
    for arguments in ({"max_new_tokens": -1}, {"seed": 2**64}, {"max_new_tokens": 2**32}, {"top_k": -1}):
        with pytest.raises(InvalidRequest, match="does not fit its field"):
            client.generate("ACGT", **arguments)
    with pytest.raises(InvalidRequest, match="strand: is 'reverse'; accepted: forward, both"):
        client.score(["ACGT"], strand="reverse")
    with pytest.raises(InvalidRequest, match="sequences: is one text"):
        client.score("ACGT")


def test_violations_arrive_as_standard_bad_request_details(client):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    with pytest.raises(grpc.RpcError) as caught:
        client._stub.ScoreSequences(scoring())
    status = rpc_status.from_call(caught.value)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].field == "sequences"


@given(st.text(max_size=200))
def test_a_name_from_outside_becomes_one_short_ascii_line(name):
    shown = printable(name)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 700


@given(st.text(alphabet="ACGTNacgtn", min_size=1, max_size=50))
def test_a_dna_prompt_reaches_the_engine_in_upper_case(prompt):
    assert plan_generation(generation(prompt=prompt), MODEL, LIMITS).prompt == prompt.upper()


@given(st.text(alphabet="ACGT", min_size=4, max_size=40), st.data())
def test_each_variant_is_applied_at_its_place(window, data):
    offset = data.draw(st.integers(0, len(window)))
    reference = window[offset : offset + data.draw(st.integers(0, 2))]
    alternate = data.draw(st.text(alphabet="ACGT", min_size=0 if reference else 1, max_size=4))
    plan = plan_variants(variants((offset, reference, alternate), window=window), MODEL, LIMITS)
    assert plan.alternates == (window[:offset] + alternate + window[offset + len(reference) :],)
