"""The content of a safetensors file in parts, so that it is hashed from the memory that it is written from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch

_BLOCK = 1 << 22
# In safetensors' order: tensors of a later type come first in a file.
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_ORDER = {dtype: -number for number, dtype in enumerate(_TYPES)}


def safetensors_parts(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes that `safetensors.torch.save_file` writes for tensors on the CPU."""
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name.encode()))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        content = memoryview(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy())
        for start in range(0, len(content), _BLOCK):
            yield content[start : start + _BLOCK]
