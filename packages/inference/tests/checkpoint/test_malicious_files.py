"""Files that are made to do harm: fill the memory, never end, write elsewhere, or give numbers that nobody saved."""

import io
import itertools
import pickle
import re
import zipfile

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from packages.inference.tests.checkpoint.foreign_checkpoints import (
    RUN_CONFIG,
    mbridge_tensors,
    savanna_tensors,
    write_mbridge,
)
from packages.inference.tests.conftest import TINY
from subquad.inference.checkpoint import convert_checkpoint, source_config
from subquad.inference.checkpoint.fp8_scales import read_scales
from subquad.inference.checkpoint.restricted_pickle import load_inert
from subquad.inference.checkpoint.vortex_config import vortex_config
from subquad.inference.errors import CheckpointConfigError, CheckpointError, CheckpointTensorError
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2

MATRIX = "decoder.layers.0.mlp.linear_fc2.weight"
LETTERS = "abcdefghijklmnopqrstuvw"
LISTS = "\n".join(["a: &a [x, x, x]", *(f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in itertools.pairwise(LETTERS))])


def nested(depth=60):
    """Returns a tuple of two references to one of two references and so on: its text would fill any memory."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def compressed(archive):
    """Returns an archive of the same records, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as plain, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return buffer.getvalue()


def convert(source, tmp_path, read, **options):
    options.setdefault("config", LazyConfig(StripedHyena2)(**TINY))
    return convert_checkpoint(source, tmp_path / "made", read=read, write="native", **options)


@pytest.fixture
def mbridge(tmp_path):
    write_mbridge(tmp_path / "mbridge", mbridge_tensors(savanna_tensors()))
    return tmp_path / "mbridge"


@pytest.fixture
def metadata(mbridge):
    """A function that changes the description of a distributed checkpoint."""

    def change(edit):
        file = mbridge / "iter_0000001" / ".metadata"
        described = pickle.loads(file.read_bytes())
        edit(described)
        file.write_bytes(pickle.dumps(described))

    return change


def test_compressed_records_which_may_have_any_length_are_not_read(tmp_path, mbridge):
    content = {"scale_fwd": torch.tensor([16.0, 512.0, 1.0])}
    assert read_scales("x", saved(content)) is not None
    with pytest.raises(CheckpointError, match=r"x: the record '.*data\.pkl' is compressed, as torch\.save never does"):
        read_scales("x", compressed(saved(content)))
    file = tmp_path / "savanna.pt"
    file.write_bytes(compressed(saved({"module": savanna_tensors()})))
    with pytest.raises(CheckpointError, match=r"savanna\.pt: the record '.*' is compressed"):
        convert(file, tmp_path, "savanna")
    assert not (tmp_path / "made").exists()


def test_a_compressed_piece_of_a_distributed_checkpoint_is_not_read(mbridge, metadata, tmp_path):
    file = next((mbridge / "iter_0000001").glob("*.distcp"))
    piece, before = compressed(saved(torch.ones(TINY["hidden_size"]))), file.read_bytes()
    file.write_bytes(before + piece)

    def elsewhere(described):
        info = next(i for key, i in described.storage_data.items() if key.fqn == "decoder.final_norm.weight")
        info.offset, info.length = len(before), len(piece)

    metadata(elsewhere)
    with pytest.raises(CheckpointError, match=r"the record '.*' is compressed"):
        convert(mbridge, tmp_path, "mbridge")


def test_a_scale_that_is_longer_than_its_numbers_is_not_made():
    long = {"scale_fwd": torch.tensor([16.0, 512.0, 1.0]), "amax_history_fwd": torch.ones(1).expand(1 << 40)}
    with pytest.raises(CheckpointError, match="a tensor reaches beyond its storage"):
        read_scales("x", saved(long))


class Named(pickle.Pickler):
    """Writes a reference to outside the pickle in the place of an object."""

    def persistent_id(self, obj):
        return nested() if isinstance(obj, io.BytesIO) else None


def test_an_error_about_nested_values_is_short(mbridge, metadata, tmp_path):
    buffer = io.BytesIO()
    Named(buffer).dump([io.BytesIO()])
    with pytest.raises(CheckpointError, match=r"refers to \(\(\(\.\.\.\)") as found:
        load_inert(buffer.getvalue(), "x")
    assert len(str(found.value)) < 300

    def every(name, value):
        return lambda described: [setattr(info, name, value) for info in described.storage_data.values()]

    metadata(every("transform_descriptors", nested()))
    with pytest.raises(CheckpointError, match=r"is stored as \(\(\(\.\.\.\)"):
        convert(mbridge, tmp_path, "mbridge")
    metadata(every("relative_path", nested()))
    with pytest.raises(CheckpointError, match=r"names the file \(\(\(\.\.\.\)"):
        convert(mbridge, tmp_path, "mbridge")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "", 5])
def test_a_piece_lies_in_a_file_of_the_folder(mbridge, metadata, tmp_path, name):
    metadata(lambda described: [setattr(info, "relative_path", name) for info in described.storage_data.values()])
    with pytest.raises(CheckpointError, match=f"names the file {name!r}; accepted: names without a folder"):
        convert(mbridge, tmp_path, "mbridge")


@pytest.mark.parametrize("row", [1, -1, 33, 10**6])
def test_pieces_that_leave_a_part_of_a_tensor_out_are_refused(mbridge, metadata, tmp_path, row):
    def moved(described):
        second = described.state_dict_metadata[MATRIX].chunks[1]
        place = next(i for i in described.storage_data if i.fqn == MATRIX and i.offset == second.offsets)
        info = described.storage_data.pop(place)
        second.offsets = torch.Size((row, 0))
        described.storage_data[MetadataIndex(MATRIX, second.offsets, 1)] = info

    metadata(moved)
    with pytest.raises(CheckpointError, match=rf"pieces of {re.escape(MATRIX)} overlap or reach beyond \[64, 96\]"):
        convert(mbridge, tmp_path, "mbridge")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("peft: null", "started: 2020-99-99", "is no plain YAML: month must be"),
        ("peft: null", "peft: " + "[" * 10_000, "is no plain YAML"),
        ("10000", ".nan", r"model\.rotary_base is nan; accepted: a positive number"),
        ("10000", ".inf", r"model\.rotary_base is inf; accepted: a positive number"),
        ("10000", "1" + "0" * 400, r"model\.rotary_base is 1000.*; accepted: a positive number"),
        ("hidden_size: 64", "hidden_size: *w", r"model\.hidden_size is \[\[\[?\.\.\."),
        ('"SDH*SDH*"', "*w", r"model\.hybrid_override_pattern is \[\[\[?\.\.\."),
    ],
)
def test_a_run_config_that_is_out_of_range_is_a_short_line(mbridge, old, new, text):
    file = mbridge / "iter_0000001" / "run_config.yaml"
    file.write_text((LISTS if "*w" in new else "") + RUN_CONFIG.replace(old, new))
    with pytest.raises(CheckpointConfigError, match=text) as found:
        source_config(mbridge, "mbridge", None)
    assert len(str(found.value)) < 800


def test_a_vortex_config_of_nested_lists_is_a_short_line(tmp_path):
    for line in ("proj_groups: *w", "hidden_size: *w"):
        (tmp_path / "config.yml").write_text(f"{LISTS}\nhcs_filter_groups: 8\nhcm_filter_groups: 8\n{line}\n")
        with pytest.raises(CheckpointConfigError, match=r" is \[\[\[?\.\.\.") as found:
            vortex_config(str(tmp_path / "config.yml"))
        assert len(str(found.value)) < 800


def test_the_number_of_an_iteration_has_a_few_digits(tmp_path):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("9" * 5000)
    with pytest.raises(CheckpointError, match=r"holds '9{40}'; accepted: the number of an iteration"):
        convert(tmp_path, tmp_path, "mbridge")


def test_a_tensor_without_numbers_is_named(tmp_path):
    tensors = savanna_tensors()
    tensors["sequential.2.mlp.w3.weight"] = tensors["sequential.2.mlp.w3.weight"].to("meta")
    torch.save({"module": tensors}, tmp_path / "savanna.pt")
    with pytest.raises(CheckpointTensorError, match="has no numbers, it was saved from the meta device"):
        convert(tmp_path / "savanna.pt", tmp_path, "savanna")


def test_two_files_for_one_part_are_refused(tmp_path):
    for name in ("x.pt.part0", "x.pt.part00"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="are both part 0; only one can be"):
        convert(tmp_path / "x.pt", tmp_path, "vortex")


class Called:
    """Is pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def keyed(key, protocol=4):
    """Returns a pickle of a dictionary with one key, which is hashed when it is read and not before."""
    data = pickle.dumps([key, 0], protocol=protocol)
    empty, fill = pickle.EMPTY_LIST, pickle.APPENDS
    assert data.count(empty) == 1
    return data.replace(empty, pickle.EMPTY_DICT).replace(fill + pickle.STOP, pickle.SETITEMS + pickle.STOP)


def levels(count):
    """Returns a pickle of a set of one tuple, which holds a tuple, and so on."""
    chain = b"(" + pickle.EMPTY_TUPLE + pickle.TUPLE1 * count
    return pickle.PROTO + b"\4" + pickle.EMPTY_SET + chain + pickle.ADDITEMS + pickle.STOP


ENDLESS = {
    "key": keyed(nested()),
    "key of protocol 2": keyed(nested(), protocol=2),
    "set": pickle.dumps(Called(set, [nested()])),
    "frozenset": pickle.dumps(Called(frozenset, [nested()])),
    "dictionary": pickle.dumps(Called(dict, [(nested(), 1)])),
    "size": pickle.dumps(Called(set, [Called(tuple, [nested()])])),
    "one of many": pickle.dumps(Called(set, [nested(15), 1])).replace(b"K\x01", b"h\x10" * 200_000),
    "levels": levels(1_000_000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_keys_of_tuples_in_tuples_that_never_end_are_refused(kind):
    with pytest.raises(CheckpointError, match=r"x: has keys of tuples inside tuples that take more than .* steps"):
        load_inert(ENDLESS[kind], "x", functions={("builtins", "dict"): dict, ("builtins", "tuple"): tuple})


def test_a_torch_file_with_endless_keys_is_refused(tmp_path):
    """Its pickle, and the references to storages in it, are read by torch."""
    for name, pickled in (("keys", keyed(nested(), protocol=2)), ("references", reference(nested()))):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/DATA.PKL", pickled)
            archive.writestr("archive/version", "3\n")
        with pytest.raises(CheckpointError, match=f"{name}: has keys of tuples inside tuples"):
            convert(tmp_path / name, tmp_path, "vortex")


def reference(key):
    class Referring(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, key, "cpu", 1) if isinstance(obj, io.BytesIO) else None

    buffer = io.BytesIO()
    Referring(buffer, protocol=2).dump([io.BytesIO()])
    return buffer.getvalue()


def test_an_old_storage_with_endless_keys_is_refused():
    buffer = io.BytesIO()
    torch.save([nested(), 0], buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue().replace(pickle.dumps([nested(), 0], protocol=2), keyed(nested(), protocol=2))
    outer = pickle.dumps({"scale_fwd": Called(torch.storage._load_from_bytes, data)})
    with pytest.raises(CheckpointError, match="x: has keys of tuples inside tuples"):
        read_scales("x", torch.frombuffer(bytearray(outer), dtype=torch.uint8))


def test_what_is_nested_and_ends_is_read():
    shared = tuple(range(100))
    value = {"sizes": [torch.Size(shared)] * 1000, (shared, (shared, "a")): {shared, 1 << 80}, "deep": nested(12)}
    assert load_inert(pickle.dumps(value), "x") == value
    assert load_inert(levels(50), "x")
