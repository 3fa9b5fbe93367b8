"""Headers written and read: inverse of each other, and as the reference library has them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import safetensors
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidError
from registry.safetensors import TensorSpec, Writer, read_header

NAMES = st.text("abcdefghij._0123456789é", min_size=1, max_size=12)
SPECS = st.lists(
    st.builds(
        TensorSpec,
        name=NAMES,
        dtype=st.sampled_from(["F64", "F32", "BF16", "F16", "I64", "U8", "BOOL"]),
        shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=6,
    unique_by=lambda spec: spec.name,
).map(tuple)
METADATA = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3)


@given(specs=SPECS, metadata=METADATA)
def test_a_header_reads_back_here_and_in_the_reference(specs: tuple[TensorSpec, ...], metadata: dict[str, str]) -> None:
    data = bytes(sum(spec.size_bytes for spec in specs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        with Writer(path, specs, metadata) as writer:
            writer.write(data)
            writer.finish()
        header = read_header(path)
        reference = dict(safetensors.deserialize(path.read_bytes()))
    assert header.metadata == metadata
    assert {(info.name, info.dtype, info.shape) for info in header.tensors.values()} == {
        (spec.name, spec.dtype, spec.shape) for spec in specs
    }
    assert {name: (one["dtype"], tuple(one["shape"])) for name, one in reference.items()} == {
        spec.name: (spec.dtype, spec.shape) for spec in specs
    }


@given(specs=SPECS.filter(len), position=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_what_the_reference_refuses_is_refused(specs: tuple[TensorSpec, ...], position: int, flip: int) -> None:
    """One byte of a sound file changed: whatever this reader takes, the reference takes too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        with Writer(path, specs, {}) as writer:
            writer.write(bytes(sum(spec.size_bytes for spec in specs)))
            writer.finish()
        data = bytearray(path.read_bytes())
        data[position % len(data)] ^= flip
        path.write_bytes(data)
        try:
            read_header(path)
        except InvalidError:
            return
        safetensors.deserialize(bytes(data))
