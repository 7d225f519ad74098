"""The compiled library itself: it loads on a machine without a GPU, exports its interface and nothing else."""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from subquad.ops._cuda_interface import (
    ABI_VERSION,
    E4M3_CODE,
    FirStepArguments,
    GatedLinearArguments,
    ProductArguments,
    RotaryArguments,
    RowsArguments,
    StepFilterArguments,
    StreamArguments,
    TurnArguments,
)
from subquad.ops._cuda_library import CudaLibrary
from tools.cuda.fatbin import device_code

CSRC = Path(__file__).parents[1]
LIBRARY = CSRC / "libsubquad_ops_cuda.so"
HEADER = CSRC / "subquad_ops_cuda.h"
CUBINS = {architecture: CSRC / f"causal_fir_cubin.{architecture}.cubin" for architecture in ("sm_80", "sm_90a")}
KERNEL = "subquad10causal_fir7forward"  # subquad::causal_fir::forward, as compilers write it
MARCHING_KERNELS = ("8toeplitz3run", "17toeplitz_backward3run", "8few_taps3run", "5modal3run", "14modal_backward3run")
OK, NULL_POINTER, UNKNOWN_DTYPE, UNKNOWN_ACTIVATION, TAPS, SIZE, GROUPS, STATES, NORM, UNALIGNED = range(0, -10, -1)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    CudaLibrary(LIBRARY)  # the package's own loader takes it: interface version and symbols
    opened = ctypes.CDLL(str(LIBRARY))
    opened.subquad_ops_status_text.restype = ctypes.c_char_p
    opened.subquad_ops_causal_fir.argtypes = (
        [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 4 + [ctypes.c_int32] * 4 + [ctypes.c_void_p]
    )
    return opened


def call(library: ctypes.CDLL, **changes: int) -> int:
    """Calls causal_fir for an empty batch, with some arguments changed: every check runs, no kernel does."""
    sizes = {"batch": 0, "channel": 4, "length": 8, "group": 2, "tap": 3, "dtype": 0, "parameter_dtype": 0, "act": 0}
    assert set(changes) <= set(sizes)
    return library.subquad_ops_causal_fir(*[None] * 6, *(sizes | changes).values(), None)


def toeplitz(library: ctypes.CDLL, *, group: int = 2, tap: int = 128, tail_size: int = 0, **changes: int) -> int:
    """Calls toeplitz for an empty batch, with some arguments changed."""
    stream = StreamArguments(channel=4, length=300, projection_tap=1)
    for name, value in changes.items():
        setattr(stream, name, value)
    sizes = (ctypes.c_int64(group), ctypes.c_int64(tail_size), tap, 0)
    return library.subquad_ops_toeplitz(ctypes.byref(stream), None, None, None, *sizes, None)


def test_the_interface_version_is_the_one_of_header_and_loader(library: ctypes.CDLL) -> None:
    named = re.search(r"#define SUBQUAD_OPS_ABI_VERSION (\d+)", HEADER.read_text())
    assert named
    assert library.subquad_ops_abi_version() == int(named[1]) == ABI_VERSION


def test_the_library_exports_what_the_header_declares_and_nothing_else() -> None:
    declared = set(re.findall(r"SUBQUAD_OPS_EXPORT .*?(subquad_ops_\w+)\(", HEADER.read_text()))
    listing = subprocess.run(
        ["/usr/bin/nm", "-D", "--defined-only", LIBRARY], check=True, capture_output=True, text=True
    ).stdout
    assert {line.split()[-1] for line in listing.splitlines()} == declared


def test_the_library_needs_no_cuda_and_no_torch_to_load() -> None:
    listing = subprocess.run(["/usr/bin/objdump", "-p", LIBRARY], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED\s+(\S+)", listing)
    assert needed
    assert not [name for name in needed if re.search(r"cuda|torch|c10", name)]


def test_the_library_holds_machine_code_for_both_architectures() -> None:
    kernels = [code for code in device_code(LIBRARY) if code.names(KERNEL)]
    assert {code.architecture for code in kernels} == {"sm_80", "sm_90a"}
    assert {code.kind for code in kernels} == {"cubin"}


@pytest.mark.parametrize("name", MARCHING_KERNELS)
def test_the_kernels_that_march_are_there_for_both_architectures(name: str) -> None:
    assert {code.architecture for code in device_code(LIBRARY) if code.names(name)} == {"sm_80", "sm_90a"}


@pytest.mark.parametrize("architecture", CUBINS)
def test_each_cubin_holds_the_kernel(architecture: str) -> None:
    content = CUBINS[architecture].read_bytes()
    assert content.startswith(b"\x7fELF")
    assert KERNEL.encode() in content


def test_no_build_path_is_left_in_the_library() -> None:
    assert not re.search(rb"sandbox|execroot|/tmp/", LIBRARY.read_bytes())


def test_an_empty_batch_is_no_error(library: ctypes.CDLL) -> None:
    assert call(library) == OK
    assert call(library, batch=2, length=0) == OK


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"batch": 1}, NULL_POINTER, "null"),
        ({"dtype": 3}, UNKNOWN_DTYPE, "dtype"),
        ({"parameter_dtype": -1}, UNKNOWN_DTYPE, "dtype"),
        ({"act": 2}, UNKNOWN_ACTIVATION, "activation"),
        ({"tap": 1}, TAPS, "tap count"),
        ({"tap": 9}, TAPS, "tap count"),
        ({"batch": -1}, SIZE, "size"),
        ({"channel": 1 << 20, "batch": 1 << 11}, SIZE, "size"),
        ({"group": 3}, GROUPS, "groups"),
    ],
)
def test_a_bad_argument_is_refused_before_any_launch(
    library: ctypes.CDLL, changes: dict[str, int], status: int, text: str
) -> None:
    assert call(library, **changes) == status
    assert text in library.subquad_ops_status_text(status).decode()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, OK),
        ({"batch": 1}, NULL_POINTER),
        ({"dtype": 1}, UNKNOWN_DTYPE),
        ({"skip_dtype": 3}, UNKNOWN_DTYPE),
        ({"activation": 3}, UNKNOWN_ACTIVATION),
        ({"tap": 1}, TAPS),
        ({"tap": 130}, TAPS),
        ({"length": (1 << 31) - 1}, SIZE),
        ({"channel": 65536}, SIZE),
        ({"tail_size": 301}, SIZE),
        ({"group": 3}, GROUPS),
    ],
)
def test_a_bad_argument_of_a_stream_is_refused(library: ctypes.CDLL, changes: dict[str, int], status: int) -> None:
    assert toeplitz(library, **changes) == status


@pytest.mark.parametrize("states", [0, 17])
def test_a_state_count_that_no_kernel_serves_is_refused(library: ctypes.CDLL, states: int) -> None:
    stream = StreamArguments(channel=4, length=300, projection_tap=1)
    assert library.subquad_ops_modal(ctypes.byref(stream), *[None] * 6, states, None) == STATES
    assert "state count" in library.subquad_ops_status_text(STATES).decode()


PRODUCT = {"vector": 16, "weight": 16, "outputs": 6, "inputs": 64, "weight_dtype": 2}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"weight": None}, NULL_POINTER),
        ({"weight_dtype": 1}, UNKNOWN_DTYPE),
        ({"weight_dtype": E4M3_CODE}, NULL_POINTER),  # the factors of its rows are not there
        ({"norm": 1}, NULL_POINTER),
        ({"inputs": 60}, SIZE),
        ({"inputs": 72, "weight_dtype": E4M3_CODE}, SIZE),
        ({"inputs": 24_584}, SIZE),
        ({"inputs": 8200, "norm": 2, "norm_scale": 16}, SIZE),
        ({"outputs": 0}, SIZE),
    ],
)
def test_a_product_that_no_decode_kernel_serves_is_refused(
    library: ctypes.CDLL, changes: dict[str, int | None], status: int
) -> None:
    product = ctypes.byref(ProductArguments(**PRODUCT | changes))
    assert library.subquad_ops_linear_step(product, None, None, ctypes.c_void_p(16), 0, 2, None) == status
    assert library.subquad_ops_linear_step(product, None, None, None, 0, 2, None) == NULL_POINTER


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"memory": None}, NULL_POINTER),
        ({"projection_past": 8}, TAPS),
        ({"size": 129}, TAPS),
        ({"second": 16, "size": 33}, STATES),
        ({"group": 4}, GROUPS),
    ],
)
def test_filters_that_no_decode_kernel_serves_are_refused(
    library: ctypes.CDLL, changes: dict[str, int | None], status: int
) -> None:
    arrays = dict.fromkeys(("projection_taps", "projection_ring", "first", "memory", "position"), 16)
    filters = StepFilterArguments(**arrays | {"group": 1, "projection_past": 2, "size": 6} | changes)
    product = ProductArguments(**PRODUCT)
    arguments = (ctypes.byref(product), ctypes.byref(filters), ctypes.c_void_p(16), None)
    assert library.subquad_ops_gated_step(*arguments) == status


def test_a_gated_product_needs_two_matrices_and_an_activation_that_it_knows(library: ctypes.CDLL) -> None:
    product = ctypes.byref(ProductArguments(**PRODUCT))
    assert library.subquad_ops_gated_linear_step(product, ctypes.c_void_p(16), 2, None) == NULL_POINTER
    assert library.subquad_ops_gated_linear_step(product, ctypes.c_void_p(16), 1, None) == UNKNOWN_ACTIVATION


ROWS = {
    "x": 16,
    "other": 16,
    "scale": 16,
    "total": 16,
    "output": 16,
    "inverse": 16,
    "rows": 2,
    "channels": 64,
    "norm": 1,
}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"rows": 0, "x": None}, OK),
        ({"x": None}, NULL_POINTER),
        ({"output": None}, NULL_POINTER),
        ({"scale": None}, NULL_POINTER),
        ({"dtype": 3}, UNKNOWN_DTYPE),
        ({"other_dtype": -1}, UNKNOWN_DTYPE),
        ({"scale_dtype": 3}, UNKNOWN_DTYPE),
        ({"activation": 1}, UNKNOWN_ACTIVATION),
        ({"norm": 3}, NORM),
        ({"channels": 0}, SIZE),
        ({"channels": 24_577}, SIZE),
        ({"rows": 1 << 31}, SIZE),
        ({"channels": 8193}, UNALIGNED),
        ({"channels": 8200, "x": 24}, UNALIGNED),
    ],
)
def test_rows_that_no_kernel_serves_are_refused(
    library: ctypes.CDLL, changes: dict[str, int | None], status: int
) -> None:
    rows = RowsArguments(**ROWS | changes)
    assert library.subquad_ops_row_norm(ctypes.byref(rows), None) == status
    assert library.subquad_ops_rounded_rows(ctypes.byref(rows), None) == status
    assert library.subquad_ops_status_text(status).decode() != "unknown status"


def test_a_norm_and_a_gate_need_what_they_are_made_of(library: ctypes.CDLL) -> None:
    rows = RowsArguments(**ROWS | {"norm": 0})
    assert library.subquad_ops_row_norm(ctypes.byref(rows), None) == NORM
    assert library.subquad_ops_gated_product(ctypes.byref(RowsArguments(**ROWS)), None) == NORM
    rows.other_dtype = 2
    assert library.subquad_ops_gated_product(ctypes.byref(rows), None) == UNKNOWN_DTYPE
    rows.other = rows.inverse = None
    assert library.subquad_ops_gated_product(ctypes.byref(rows), None) == NULL_POINTER
    assert library.subquad_ops_rounded_rows(ctypes.byref(rows), None) == NULL_POINTER


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"gate": None}, NULL_POINTER),
        ({"activation": 1}, UNKNOWN_ACTIVATION),
        ({"rows": 0}, SIZE),
        ({"inputs": 60}, SIZE),
        ({"outputs": 4}, SIZE),
        ({"x_stride": 56}, SIZE),
        ({"rows": 1 << 30, "outputs": 1 << 30}, SIZE),
        ({"x_stride": 68}, UNALIGNED),
        ({"value": 24}, UNALIGNED),
    ],
)
def test_a_gated_linear_that_no_kernel_serves_is_refused(
    library: ctypes.CDLL, changes: dict[str, int | None], status: int
) -> None:
    sizes = {"rows": 3, "inputs": 64, "outputs": 32, "x_stride": 64}
    given = GatedLinearArguments(**{"x": 16, "gate": 16, "value": 16} | sizes | changes)
    assert library.subquad_ops_gated_linear(ctypes.byref(given), ctypes.c_void_p(16), None) == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"ring": None}, NULL_POINTER),
        ({"output": None}, NULL_POINTER),
        ({"dtype": 3}, UNKNOWN_DTYPE),
        ({"taps_dtype": 1}, UNKNOWN_DTYPE),
        ({"skip_dtype": -1}, UNKNOWN_DTYPE),
        ({"position_bytes": 2}, UNKNOWN_DTYPE),
        ({"past": 0}, TAPS),
        ({"past": 129}, TAPS),
        ({"batch": 65_536}, SIZE),
        ({"channels": 0}, SIZE),
        ({"groups": 5}, GROUPS),
    ],
)
def test_a_filter_step_that_no_kernel_serves_is_refused(
    library: ctypes.CDLL, changes: dict[str, int | None], status: int
) -> None:
    arrays = dict.fromkeys(("x", "taps", "ring", "position", "output"), 16)
    sizes = {"batch": 2, "channels": 6, "groups": 3, "past": 6, "dtype": 2, "taps_dtype": 0, "position_bytes": 8}
    given = FirStepArguments(**arrays | sizes | changes)
    assert library.subquad_ops_fir_step(ctypes.byref(given), None) == status


def test_columns_rotations_and_turns_that_no_kernel_serves_are_refused(library: ctypes.CDLL) -> None:
    def columns(batch: int, channels: int, length: int, dtype: int) -> int:
        sizes = (ctypes.c_int64(size) for size in (batch, channels, length, 0, 0))
        return library.subquad_ops_rounded_columns(None, None, None, *sizes, dtype, None)

    assert [columns(1, 4, 4, 3), columns(65_536, 4, 4, 0), columns(1, 4, 4, 0), columns(0, 4, 4, 0)] == [
        UNKNOWN_DTYPE,
        SIZE,
        NULL_POINTER,
        OK,
    ]
    for changes, status in (
        ({"batch": 0}, OK),
        ({}, NULL_POINTER),
        ({"x": 16, "position": 16, "inv_freq": 16, "y": 16, "keys": 16}, NULL_POINTER),
        ({"position_bytes": 2}, UNKNOWN_DTYPE),
        ({"batch": 65_536}, SIZE),
    ):
        rotary = RotaryArguments(**{"batch": 1, "length": 2, "heads": 3, "half": 4, "position_bytes": 8} | changes)
        assert library.subquad_ops_rotary(ctypes.byref(rotary), None) == status
    for changes, status in (
        ({"past": 0}, OK),
        ({}, NULL_POINTER),
        ({"source_dtype": 3}, UNKNOWN_DTYPE),
        ({"channels": 1 << 30}, SIZE),
    ):
        turn = TurnArguments(**{"batch": 1, "channels": 2, "past": 3, "position_bytes": 4} | changes)
        assert library.subquad_ops_turn_ring(ctypes.byref(turn), None) == status


def test_a_status_of_the_cuda_runtime_is_put_in_words(library: ctypes.CDLL) -> None:
    assert "driver" in library.subquad_ops_status_text(35).decode()
    assert library.subquad_ops_status_text(-99).decode() == "unknown status"
