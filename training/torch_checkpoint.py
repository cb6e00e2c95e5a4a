"""Reads a legacy (before 1.6, not zip) PyTorch checkpoint of plain tensors, without PyTorch.

The file is four pickles (magic number, protocol, system information, the object) and a
list of storage keys, then each storage as an int64 element count and little-endian
values. Tensors refer to their storage by persistent id. A pickle may run any code, so
only the four names that such a file needs are ever resolved.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from training.errors import CheckpointError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass
class _Storage:
    """Values that arrive only after the pickle which refers to them."""

    dtype: np.dtype[Any]
    numel: int
    values: NDArray[Any] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        values = self.storage.values[self.offset :]
        steps = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        if min(self.strides, default=0) < 0 or sum(steps) >= values.size:
            raise CheckpointError(f"a tensor of shape {self.shape} lies outside of its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.ascontiguousarray(as_strided(values, self.shape, strides))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise CheckpointError(f"refused to load {module}.{name}: not part of a plain checkpoint")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, numel, view = pid
        if kind != "storage" or view is not None:
            raise CheckpointError(f"persistent id of kind {kind!r} is not a plain storage")
        return self.storages.setdefault(key, _Storage(dtype, numel))


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """Return the checkpoint's tensors by name, as float32 or int64 arrays.

    Raises CheckpointError when the file is not a legacy checkpoint of plain tensors.
    """
    with path.open("rb") as file:
        try:
            if _Unpickler(file).load() != MAGIC_NUMBER:
                raise CheckpointError(f"{path.name} is not a legacy PyTorch checkpoint")
            if _Unpickler(file).load() != PROTOCOL_VERSION:
                raise CheckpointError(f"{path.name} has an unknown protocol version")
            _Unpickler(file).load()  # byte order and type sizes of the writer
            unpickler = _Unpickler(file)
            tensors = unpickler.load()
            for key in _Unpickler(file).load():
                _read_storage(file, unpickler.storages[key])
        except (pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path.name} cannot be read as a checkpoint: {error}") from error
    return {name: tensor.array() for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> None:
    numel = int.from_bytes(file.read(8), "little")
    if numel != storage.numel:
        raise CheckpointError(f"a storage holds {numel} values, {storage.numel} were announced")
    data = file.read(numel * storage.dtype.itemsize)
    storage.values = np.frombuffer(data, dtype=storage.dtype, count=numel)
