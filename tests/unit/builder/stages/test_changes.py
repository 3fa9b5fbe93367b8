"""What every stage that makes weights from weights says alike: the device, and what was done to each component."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.environment import prepare
from builder.manifest import ExtractStage, FoldStage, FuseStage
from builder.runner import Runner
from builder.stages.blend import blend
from builder.stages.cast import cast
from builder.stages.changes import KEPT, Did, component_map
from builder.stages.extract import extract
from builder.stages.fold import fold
from builder.stages.fuse import fuse
from builder.stages.graft import graft
from builder.weight_stages import BlendSource, BlendStage, CastStage, GraftStage
from builder.weighting import ONE
from registry.components import Network
from registry.errors import MachineError
from registry.record import ComponentChange
from tests.workshop import Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.stage import Context, Outcome

    Stage = Callable[[Context[Any]], Outcome]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def stages(shop: Workshop) -> dict[str, tuple[Stage, Context[Any]]]:
    """Every kind, with inputs on which it has something to do."""
    one, other = shop.model(), shop.model({name: 2 * tensor for name, tensor in llama().items()})
    base, adapter = shop.input("from", one), shop.input("adapter", shop.adapter(one), name="tone")
    models = (shop.input("model", one, name="a"), shop.input("model", other, name="b"))
    against, under = shop.input("against", other), shop.input("base", one)
    mixed = BlendStage(method="linear", models={"a": BlendSource(), "b": BlendSource()})
    return {
        "fold": (fold, shop.context(FoldStage(from_="base", adapters={"tone": ONE}), base, adapter)),
        "fuse": (fuse, shop.context(FuseStage(adapters={"tone": ONE}), under, adapter)),
        "blend": (blend, shop.context(mixed, *models)),
        "extract": (extract, shop.context(ExtractStage(from_="a", against="b", rest="drop"), base, against)),
        "graft": (graft, shop.context(GraftStage(from_="base", layers=("0",)), base)),
        "cast": (cast, shop.context(CastStage(from_="base", dtype="float16"), base)),
    }


@pytest.mark.parametrize("kind", ["fold", "fuse", "blend", "extract", "graft", "cast"])
def test_every_kind_names_the_processor_that_it_ran_on(shop: Workshop, kind: str) -> None:
    function, context = stages(shop)[kind]
    context = replace(context, runner=Runner(threads=2, device="cpu"))
    config = context.inputs[0].path / "config.json"
    if kind == "graft":
        config.write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    assert function(context).device == prepare(context.runner).name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["fold", "fuse", "blend", "extract", "graft", "cast"])
def test_every_kind_refuses_to_run_where_the_gpu_that_is_asked_for_is_not_there(shop: Workshop, kind: str) -> None:
    function, context = stages(shop)[kind]
    with pytest.raises(MachineError) as caught:
        function(replace(context, runner=Runner(threads=2, device="cuda")))
    assert caught.value.what == "no CUDA device is available"
    assert not list(context.out.iterdir())


def test_tensors_are_counted_by_what_was_done_and_by_component() -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "own"]
    done = dict.fromkeys(names, KEPT) | {names[1]: Did("added", "tone"), "own": Did("added", "tone")}
    assert component_map(Network.from_tensors(names), done) == (
        ComponentChange(component="mlp.up", change="added", layers="1", tensors=1, by="tone"),
        ComponentChange(component="unknown", change="added", layers="", tensors=1, by="tone"),
        ComponentChange(component="mlp.up", change="kept", layers="0", tensors=1, by=""),
        ComponentChange(component="norm.final", change="kept", layers="", tensors=1, by=""),
    )
