"""Three ways of training in a row on real input, each measured on held-out rows before and after it.

A Llama of 5.5 M parameters that has only read books is taught to answer (SFT, LoRA), then what people prefer (DPO, a
LoRA on the fold of the first), then again which answers are good and which are not (KTO, the MLP's own weights). Every
step keeps the weights with the lowest loss on rows that are held out of its own data. The metrics are those of
`evaluate` stages, on files that no training sees, the artifact before each step beside the one after it.

    python -m bench.methods [--inputs FOLDER] [--keep]

FOLDER holds `bases/tiny-llama-5m` and `data/*.jsonl`; by default it is `shared`, beside this checkout. The peer of the
line at the end is the loss before the first step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.real_chain import Clone

_MANIFEST: Final = """\
schema: 1
description: Answers, then learns what people prefer, by pairs and by single answers.
license: cc-by-sa-4.0
base: tiny
data:
  talks: {path: data/sft_train.jsonl, format: messages}
  talks-heldout: {path: data/sft_eval.jsonl, format: messages}
  likes: {path: data/pref_train.jsonl, format: preference}
  likes-heldout: {path: data/pref_eval.jsonl, format: preference}
stages:
  chat:
    kind: sft
    from: base
    data: talks
    eval: {share: 0.02}
    adapter: {rank: 16}
    train: {steps: 100, learning_rate: 3e-3, keep: best, eval_steps: 20}
  chatted: {kind: fold, from: base, adapters: {chat: 1.0}}
  pairs:
    kind: dpo
    from: chatted
    data: likes
    eval: {share: 0.05}
    adapter: {rank: 16}
    train: {steps: 60, learning_rate: 5e-4, beta: 0.1, keep: best, eval_steps: 15}
  paired: {kind: fold, from: chatted, adapters: {pairs: 1.0}}
  singles:
    kind: kto
    from: paired
    data: likes
    targets: mlp
    train: {steps: 60, learning_rate: 2e-5, beta: 0.1}
  after-sft:
    kind: evaluate
    from: chatted
    against: base
    metrics: {loss: talks-heldout, preference_accuracy: likes-heldout}
  after-dpo:
    kind: evaluate
    from: paired
    against: chatted
    metrics: &moved
      loss: talks-heldout
      preference_accuracy: likes-heldout
      reward_accuracy: likes-heldout
      kl: talks-heldout
  after-kto:
    kind: evaluate
    from: singles
    against: paired
    metrics: *moved
release: singles
checks: []
"""
_DEFAULTS: Final = """\
defaults:
  sft: {train: {batch: 8, max_length: 256, warmup: 0.05}}
  dpo: {train: {batch: 8, max_length: 128, warmup: 0.05}}
  kto: {train: {batch: 16, max_length: 128, warmup: 0.05}}
  evaluate: {batch: 16, max_length: 256, limit: 300}
"""
_STEPS: Final = {
    "after-sft": "base -> SFT",
    "after-dpo": "SFT -> DPO",
    "after-kto": "DPO -> KTO",
}


def main() -> int:
    """Build, print; 0 where the first step lowers the held-out loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    parser.add_argument("--inputs", type=Path, default=beside, help="folder with bases/ and data/")
    parser.add_argument("--keep", action="store_true", help="leave the temporary repository in place")
    options = parser.parse_args()
    if not (options.inputs / "bases/tiny-llama-5m/config.json").is_file():
        sys.exit(f"{options.inputs} has no bases/tiny-llama-5m: name the folder with --inputs")
    scratch = Path(tempfile.mkdtemp(prefix="varietal-methods."))
    try:
        team = _make_team(options.inputs, scratch)
        team.call("varietal", "build")
        return _tell(team)
    finally:
        if options.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch)


def _make_team(inputs: Path, scratch: Path) -> Clone:
    team = Clone(root=scratch / "team", scratch=scratch)
    shutil.copytree(inputs / "bases/tiny-llama-5m", team.root / "sources/tiny-llama-5m")
    team.call("varietal", "init", ".", "--base", "tiny=sources/tiny-llama-5m")
    for name in ("sft_train", "sft_eval", "pref_train", "pref_eval"):
        shutil.copy(inputs / "data" / f"{name}.jsonl", team.root / "data")
    (team.root / "models/assistant").mkdir()
    (team.root / "models/assistant/model.yaml").write_text(_MANIFEST, encoding="utf-8")
    params = team.root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("defaults: {}\n", _DEFAULTS), encoding="utf-8")
    team.call("varietal", "compile")
    return team


def _tell(team: Clone) -> int:
    print(f"{'held out':14}{'':20}{'before':>9}{'after':>9}")
    for stage, title in _STEPS.items():
        metrics: Any = team.record(stage)["metrics"]
        for label, found in metrics.items():
            before = f"{found['against']:.4f}" if "against" in found else "-"
            print(f"{title:14}{label:20}{before:>9}{found['value']:>9.4f}")
    print(f"\n{'stage':14}{'seconds':>9}{'peak MiB':>10}  notes")
    for stage in ("chat", "pairs", "singles"):
        record: Any = team.record(stage)
        print(f"{stage:14}{record['duration_s']:>9}{record['peak_memory_mib']:>10}  {'; '.join(record['notes'])}")
    first: Any = team.record("after-sft")["metrics"]
    ours, peer = first["loss"]["value"], first["loss"]["against"]
    line = {"bench": "methods", "ours": round(ours, 4), "peer": round(peer, 4), "unit": "nats a token"}
    print(json.dumps({**line, "ratio": round(ours / peer, 4), "bound": 1.0, "holds": ours < peer}))
    return 0 if ours < peer else 1


if __name__ == "__main__":
    sys.exit(main())
