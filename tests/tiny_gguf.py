"""A small Llama as a GGUF file, and a wheel around it: written by hand after the format's description."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KEY_VALUE_HEADS, HEAD_SIZE = 2, 64, 96, 4, 2, 16
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), "ĊĊ", "ĠĠ", "12"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "1 2"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
_ALIGNMENT = 32


@dataclass(frozen=True)
class Tensor:
    """A tensor as it stands in the file, and the values that its bytes mean."""

    kind: int
    data: bytes
    values: np.ndarray


def tensors(rng: np.random.Generator) -> dict[str, Tensor]:
    """All tensors of the file by name: Q4_1 projections, a Q8_0 embedding, F32 norms, one F16 matrix."""
    made = {"token_embd.weight": q8_0(rng, len(TOKENS), HIDDEN), "output_norm.weight": plain(rng, F32, HIDDEN)}
    for layer in range(LAYERS):
        made |= {
            f"blk.{layer}.{name}.weight": tensor
            for name, tensor in {
                "attn_norm": plain(rng, F32, HIDDEN),
                "attn_q": q4_1(rng, HEADS * HEAD_SIZE, HIDDEN),
                "attn_k": q4_1(rng, KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN),
                "attn_v": q4_1(rng, KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN),
                "attn_output": q4_1(rng, HIDDEN, HEADS * HEAD_SIZE),
                "ffn_norm": plain(rng, F32, HIDDEN),
                "ffn_gate": q4_1(rng, INTERMEDIATE, HIDDEN),
                "ffn_up": plain(rng, F16, INTERMEDIATE, HIDDEN),
                "ffn_down": q4_1(rng, HIDDEN, INTERMEDIATE),
            }.items()
        }
    return made


def plain(rng: np.random.Generator, kind: int, *shape: int) -> Tensor:
    """Numbers as they are."""
    values = rng.normal(size=shape).astype(np.float16 if kind == F16 else np.float32)
    return Tensor(kind, values.tobytes(), values.astype(np.float32))


def q4_1(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Blocks of 32 values d * q + m: d and m in float16, then 16 bytes, value i in the low nibble of byte i, value
    16 + i in the high one."""
    blocks = rows * columns // 32
    scale, least = (rng.normal(scale=0.05, size=(blocks, 1)).astype(np.float16) for _ in range(2))
    quants = rng.integers(0, 16, size=(blocks, 32)).astype(np.uint8)
    packed = quants[:, :16] | quants[:, 16:] << 4
    values = scale.astype(np.float32) * quants + least.astype(np.float32)
    data = np.concatenate([scale.view(np.uint8), least.view(np.uint8), packed], axis=1)
    return Tensor(Q4_1, data.tobytes(), values.astype(np.float32).reshape(rows, columns))


def q8_0(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Blocks of 32 values d * q: d in float16, then 32 signed bytes."""
    blocks = rows * columns // 32
    scale = rng.normal(scale=0.01, size=(blocks, 1)).astype(np.float16)
    quants = rng.integers(-127, 128, size=(blocks, 32)).astype(np.int8)
    data = np.concatenate([scale.view(np.uint8), quants.view(np.uint8)], axis=1)
    return Tensor(Q8_0, data.tobytes(), (scale.astype(np.float32) * quants).reshape(rows, columns))


def write(file: Path, content: dict[str, Tensor]) -> None:
    """The file, version 3: header, metadata, table of tensors, their bytes, each aligned to 32."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.vocab_size": len(TOKENS),
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INTERMEDIATE,
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_VALUE_HEADS,
        "llama.context_length": 256,
        "llama.attention.layer_norm_rms_epsilon": 2.0**-16,
        "llama.rope.freq_base": 1e4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in TOKENS],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    table, body = b"", b""
    for name, tensor in content.items():
        dimensions = tensor.values.shape[::-1]
        table += _text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        table += struct.pack("<IQ", tensor.kind, len(body))
        body += tensor.data + bytes(-len(tensor.data) % _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(content), len(metadata))
    head += b"".join(_text(key) + struct.pack("<I", _type(value)) + _value(value) for key, value in metadata.items())
    head += table
    file.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + body)


def wheel(folder: Path, package: str, version: str, file: Path) -> Path:
    """A wheel of `package` that holds the file, as pip and uv install it."""
    name = package.replace("-", "_")
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members = [f"{name}/{file.name}", *(f"{info}/{part}" for part in (*about, "RECORD"))]
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, members[0])
        for part, text in about.items():
            archive.writestr(f"{info}/{part}", text)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in members))
    return path


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _type(value: Any) -> int:
    return {int: 4, float: 6, str: 8, list: 9}[type(value)]


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IQ", _type(value[0]), len(value)) + b"".join(map(_value, value))
    if isinstance(value, str):
        return _text(value)
    return struct.pack("<f" if isinstance(value, float) else "<I", value)
