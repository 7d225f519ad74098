"""Compiles the gated decode steps for an H100, without one, and prints the order of memory accesses and barriers.

A line a case: L for a load from global memory, S for a store to it, B for a barrier of the block.
"""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from subquad.ops.gated_conv_step.triton.kernels import gated_step_kernel, projected_gated_step_kernel

_MARKS = {"ld.global": "L", "st.global": "S", "bar.sync": "B", "barrier.sync": "B"}
_TYPES = {"position": "*i64", "active": "*u8", "second": "*fp32", "weight_scale": "*fp32", "eps": "fp32"}
_SIZES = ("channels", "channels_per_row", "size", "short_past", "inputs", "upcoming_rows", "upcoming_row_bytes",
          "upcoming_lines")  # fmt: skip
_PROJECTED = {"CHANNELS": 4, "IN": 512, "NORM": 1, "SCALED": False}


def order(kernel: JITFunction, modal: bool, constants: dict[str, int | bool]) -> str:
    """Returns the order of loads, stores and barriers in the compiled code."""
    types = dict.fromkeys(_SIZES, "i32") | _TYPES
    types |= {"first": "*fp32", "memory": "*fp32"} if modal else {}
    signature = {name: "constexpr" if name in constants else types.get(name, "*bf16") for name in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    return "".join(_MARKS[found] for found in re.findall("|".join(map(re.escape, _MARKS)), code))


def main() -> None:
    """Prints every case."""
    flags = {"SKIP": True, "ACTIVE": True, "DEPENDENT": False, "SHORT": 2}
    for modal, width, channels in ((False, 8, 64), (False, 128, 16), (True, 16, 64)):
        shape = flags | {"MODAL": modal, "WIDTH": width}
        print("given rows", order(gated_step_kernel, modal, shape | {"CHANNELS": channels}), sep=": ")
        print("own rows", order(projected_gated_step_kernel, modal, shape | _PROJECTED), sep=": ")


if __name__ == "__main__":
    main()
