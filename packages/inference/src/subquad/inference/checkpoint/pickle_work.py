"""How much work the keys of a pickle make, found without making anything.

Python hashes a tuple by hashing all that it holds, anew each time and without looking for what was seen before. Sixty
tuples, each of two references to the one before, fit into 300 bytes and take as a key longer than anybody waits; a
hundred thousand, one inside the other, end the process. So the operations of a pickle are followed here with sizes in
the place of values.
"""

import io
import pickletools

from subquad.inference.errors import CheckpointError

_MOST_LEVELS = 100
_WORK, _WORK_OF_A_BYTE = 1 << 20, 16  # of what a checkpoint holds, no byte makes a tenth of that
_PUT, _GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ")
_HASHING = ("ADDITEMS", "FROZENSET")
_KEYED = {"SETITEM": 1, "SETITEMS": 1, "DICT": 0}  # where the first key is, every other value being one


class _Size:
    """What stands on the stack for a value.

    Attributes:
      hashed: Values that a hash of it visits.
      inside: Values that a hash of each of its elements visits, for what may become a tuple or a set.
      levels: Tuples and calls inside each other.
    """

    __slots__ = ("hashed", "inside", "levels")

    def __init__(self, hashed: int = 1, inside: int = 0, levels: int = 0) -> None:
        self.hashed, self.inside, self.levels = hashed, inside, levels


def refuse_endless_keys(data: io.BytesIO, where: str, *, size: int, spells_references: bool = False) -> None:
    """Reads over one pickle and refuses keys that would take too long to hash.

    Args:
      data: Where the pickle begins; left where it ends.
      where: What errors call it.
      size: Its bytes; so much work is allowed for each.
      spells_references: Whether who reads it makes texts of its references to outside, such as those to storages.

    Raises:
      CheckpointError: There are such keys.
      ValueError, IndexError, KeyError: It is no pickle.
    """
    stack: list[_Size | None] = []  # None is a mark
    memo: dict[int, _Size] = {}
    work, most = 0, _WORK + _WORK_OF_A_BYTE * size
    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name in _GET:
            stack.append(memo[int(argument)])  # type: ignore[arg-type]
        elif name in _PUT or name == "MEMOIZE":
            place = len(memo) if name == "MEMOIZE" else int(argument)  # type: ignore[arg-type]
            memo[place] = _value(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "DUP":
            stack.append(_value(stack[-1]))
        elif name == "MARK":
            stack.append(None)
        else:
            taken = _taken(stack, operation)
            work += _work(name, taken, spells_references)
            if operation.stack_after:
                stack.append(_made(name, argument, taken))
        if work > most or (stack and stack[-1] is not None and stack[-1].levels > _MOST_LEVELS):
            problem = f"has keys of tuples inside tuples that take more than {most:,} steps, or {_MOST_LEVELS} levels"
            raise CheckpointError(f"{where}: {problem}, and is not read")


def _value(size: _Size | None) -> _Size:
    if size is None:
        raise ValueError("a mark stands where a value is wanted")
    return size


def _taken(stack: list[_Size | None], operation: pickletools.OpcodeInfo) -> list[_Size]:
    """Takes off the stack what an operation takes, the lowest first."""
    taken: list[_Size] = []
    for kind in reversed(operation.stack_before):
        if kind is pickletools.stackslice:
            while stack[-1] is not None:
                taken.append(_value(stack.pop()))
        elif kind is pickletools.markobject:
            if stack.pop() is not None:
                raise ValueError("a value stands where a mark is wanted")
        else:
            taken.append(_value(stack.pop()))
    return taken[::-1]


def _work(name: str, taken: list[_Size], spells_references: bool) -> int:
    """Returns how many values an operation may visit."""
    if name in _CALLS:
        return sum(size.hashed + size.inside for size in taken)
    if name in _KEYED:
        return sum(size.hashed for size in taken[_KEYED[name] :: 2])
    if name in _HASHING or (name == "BINPERSID" and spells_references):
        return sum(size.hashed for size in taken)
    return 0


def _made(name: str, argument: object, taken: list[_Size]) -> _Size:
    """Returns the size of what an operation leaves on the stack."""
    if name in _FILLS or name == "BUILD":
        target, *items = taken[:1] + taken[1 :: 2 if name in _KEYED else 1]
        if name != "BUILD":
            target.inside += sum(size.hashed for size in items)
            target.levels = max([target.levels, *(size.levels for size in items)])
        return target
    if isinstance(argument, str | bytes | bytearray):
        return _Size(1, len(argument) if name not in ("GLOBAL", "INST") else 0)
    if isinstance(argument, int):
        return _Size(1 + argument.bit_length() // 64)
    if name == "DICT":
        taken = taken[::2]
    hashed, levels = sum(size.hashed for size in taken), max((size.levels for size in taken), default=0)
    if name in _TUPLES:
        return _Size(1 + hashed, sum(size.inside for size in taken), levels + 1)
    if name in _CALLS:
        inside = hashed + sum(size.inside for size in taken)
        return _Size(1 + inside, inside, levels + 1)
    return _Size(1, hashed, levels)
