"""Sizes that a traced graph does not know: code that would choose by one takes the way that serves all."""

import torch


def size_is_unknown(size: int) -> bool:
    """Says whether ``torch.compile`` or ``torch.export`` traces with a size that may be another when the graph runs."""
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # it takes long to import, and is there by now

    return not has_static_value(size)
