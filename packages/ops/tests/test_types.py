"""Arguments of a wrong type, for every operator: refused by name, with what was got, before anything is computed."""

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from packages.ops.tests.typed_calls import FAULTS, call, good_calls, refused
from subquad import ops

pytestmark = pytest.mark.usefixtures("unchecked")
ARGUMENTS = [(n, a) for n, given in good_calls().items() for a, value in given.items() if isinstance(value, Tensor)]


class _NoWork(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(value.alias_info is None and str(value.type) == "Tensor" for value in func._schema.returns):
            raise AssertionError(f"{func} ran before the argument was refused")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", good_calls())
def test_the_good_call_is_taken(name: str) -> None:
    call(name, good_calls()[name])


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_of_a_wrong_type_is_named_with_what_it_is(name: str, argument: str) -> None:
    for fault, spoil in FAULTS.items():
        arguments = good_calls()[name]
        spoiled = spoil(arguments[argument])
        if not refused(name, argument, "nothing" if spoiled is None else fault):
            continue
        with pytest.raises(ops.OpsError) as raised, _NoWork():
            call(name, {**arguments, argument: spoiled})
        text = str(raised.value)
        assert argument in text, f"{fault}: {text}"
        assert isinstance(raised.value, ops.DtypeMismatch) or fault == "of more axes", f"{fault}: {text}"
