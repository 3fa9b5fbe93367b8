"""Where files speak of a variant, and where they only seem to."""

from __future__ import annotations

from builder.start.mentions import Mention, mentions
from registry import yaml12

PARAMS = """
bases:
  tiny: {path: models/support/tiny, sha256: "00"}
  support: {path: models/supporters/tiny, sha256: "00"}
"""
OTHER = """
base: {variant: support, stage: toned}
adapters:
  support: {variant: support, stage: voice}
  pinned: {variant: support@v1.0.0, digest: "sha256:00"}
  folder: {path: models/support/voice, sha256: "00", base: tiny}
models:
  sister: support
  twin: {variant: support, stage: final}
data:
  talk: {path: models/support/talk.jsonl, format: text}
  support: {path: support, format: text}
stages:
  final: {kind: fold, from: support, adapters: {support: 1.0}}
release: support
description: support
"""


def test_a_variant_is_found_where_it_is_meant() -> None:
    found = mentions(
        "support",
        {
            "params.yaml": yaml12.load(PARAMS, "x").value,
            "models/other/model.yaml": yaml12.load(OTHER, "x").value,
        },
    )
    assert [str(one) for one in found] == [
        "params.yaml: bases.tiny.path: models/support/tiny",
        "models/other/model.yaml: base.variant: support",
        "models/other/model.yaml: adapters.support.variant: support",
        "models/other/model.yaml: adapters.folder.path: models/support/voice",
        "models/other/model.yaml: models.twin.variant: support",
        "models/other/model.yaml: data.talk.path: models/support/talk.jsonl",
    ]


def test_a_mention_under_another_name() -> None:
    variant = Mention(file="x", path=("base", "variant"), value="support")
    path = Mention(file="x", path=("data", "talk", "path"), value="models/support/support/talk.jsonl")
    assert variant.renamed("support", "helper") == "helper"
    assert path.renamed("support", "helper") == "models/helper/support/talk.jsonl"
