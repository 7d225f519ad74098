"""Finding and refusing the CUDA kernel library, on any machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from subquad.ops import _cuda_library as cuda_library
from subquad.ops._environment import settings
from subquad.ops.errors import BackendUnavailable, DeviceMismatch, DtypeMismatch, ShapeMismatch


@pytest.fixture
def callable_without_library() -> cuda_library.CudaLibrary:
    """A library object whose checks run although no file was opened."""
    return object.__new__(cuda_library.CudaLibrary)


@pytest.fixture(autouse=True)
def environment_read_anew() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = cuda_library.cuda_library_path()
    monkeypatch.setenv("SUBQUAD_OPS_CUDA_LIBRARY", str(tmp_path / "later.so"))
    assert cuda_library.cuda_library_path() == before
    settings.cache_clear()
    assert cuda_library.cuda_library_path() == tmp_path / "later.so"


def test_the_environment_variable_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUBQUAD_OPS_CUDA_LIBRARY", str(tmp_path / "mine.so"))
    assert cuda_library.cuda_library_path() == tmp_path / "mine.so"


def test_without_the_variable_the_file_lies_beside_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBQUAD_OPS_CUDA_LIBRARY", raising=False)
    path = cuda_library.cuda_library_path()
    assert path.name == "libsubquad_ops_cuda.so"
    assert path.parent == Path(cuda_library.__file__).parent


def test_an_absent_library_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUBQUAD_OPS_CUDA_LIBRARY", str(tmp_path / "absent.so"))
    with pytest.raises(
        cuda_library.KernelUnavailable, match=r"absent\.so does not exist; build it with .*bazelw build"
    ):
        cuda_library.load_cuda_library()


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.so"
    file.write_text("no machine code")
    with pytest.raises(cuda_library.KernelUnavailable, match="does not load"):
        cuda_library.CudaLibrary(file)


def test_another_library_is_refused() -> None:
    other = next(Path(torch.__file__).parent.joinpath("lib").glob("libc10.so"))
    with pytest.raises(cuda_library.KernelUnavailable, match="subquad_ops_abi_version"):
        cuda_library.CudaLibrary(other)


def test_an_unavailable_kernel_is_an_unavailable_backend() -> None:
    assert issubclass(cuda_library.KernelUnavailable, BackendUnavailable)


def test_a_tensor_on_the_cpu_is_refused(callable_without_library: cuda_library.CudaLibrary) -> None:
    with pytest.raises(cuda_library.KernelUnavailable, match="x is on cpu; the CUDA kernel needs a CUDA device"):
        callable_without_library.causal_fir(torch.zeros(1, 2, 5), torch.zeros(2, 3))


@pytest.mark.parametrize("tap", [1, 9])
def test_a_tap_count_that_no_kernel_serves_is_refused(
    callable_without_library: cuda_library.CudaLibrary, tap: int
) -> None:
    with pytest.raises(cuda_library.KernelUnavailable, match=f"taps has {tap} taps; the CUDA kernel serves 2 to 8"):
        callable_without_library.causal_fir(torch.zeros(1, 2, 5), torch.zeros(2, tap))


def test_a_dtype_that_no_kernel_serves_is_refused(callable_without_library: cuda_library.CudaLibrary) -> None:
    x = torch.zeros(1, 2, 5, dtype=torch.float64)
    with pytest.raises(cuda_library.KernelUnavailable, match=r"x is torch\.float64"):
        callable_without_library.causal_fir(x, torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(DtypeMismatch, match=r"x is torch\.int64"):
        callable_without_library.causal_fir(torch.zeros(1, 2, 5, dtype=torch.int64), torch.zeros(2, 3))


def test_shapes_and_devices_that_disagree_are_refused(callable_without_library: cuda_library.CudaLibrary) -> None:
    x, taps = torch.zeros(1, 2, 5), torch.zeros(2, 3)
    with pytest.raises(ShapeMismatch, match="taps has 3 rows, x has 2 channels"):
        callable_without_library.causal_fir(x, torch.zeros(3, 3))
    with pytest.raises(ShapeMismatch, match=r"bias has shape \(3,\)"):
        callable_without_library.causal_fir(x, taps, bias=torch.zeros(3))
    with pytest.raises(ShapeMismatch, match=r"initial_state has shape \(1, 2, 3\)"):
        callable_without_library.causal_fir(x, taps, initial_state=torch.zeros(1, 2, 3))
    with pytest.raises(DeviceMismatch, match="taps is on meta, x on cpu"):
        callable_without_library.causal_fir(x, taps.to("meta"))
