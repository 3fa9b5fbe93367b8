"""The whole path on real input: a small real model, real conversations, preferences and books.

A fresh team repository is made in a temporary folder: import, SFT by LoRA, fold, DPO by LoRA, fold of that and of an
adapter that another variant trained on books, each step judged on held-out rows. Then the loop is proven: what runs
again after which edit, what a copy costs, and that a release pulled in another clone is the same bytes, and loads.

What DPO taught is printed by two measures: `preference_accuracy` compares the summed log-probabilities of answers,
`reward_accuracy` the log-ratios against the model before it, as DPO logs them. On 300 pairs and some sixty steps of a
tiny model both move by one or two standard errors, so this is said, and not made a condition.

Runs: python bench/real_chain.py [--inputs FOLDER] [--keep]

FOLDER holds `bases/tiny-llama-5m` and `data/*.jsonl`; by default it is `shared`, beside this checkout. The peer of the
rebuild that has nothing to do is the full build of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_BOUND_S: Final = 15 * 60
_IDLE_BOUND: Final = 0.1  # a rebuild with nothing to do, over the full build
_DATA: Final = ("sft_train", "sft_eval", "pref_train", "pref_eval", "text_train", "text_eval")
_TRAININGS: Final = {
    "chat (SFT, LoRA)": ("assistant", "chat"),
    "pref (DPO, LoRA)": ("assistant", "pref"),
    "books (SFT on text, LoRA on attention)": ("reader", "books"),
}
_CHANCE: Final = 0.5  # reward accuracy of a policy that is its reference
_PAIRS: Final = 300  # held-out preferences

_ASSISTANT: Final = """\
schema: 1
description: Answers, then learns what people prefer, then is given its books back.
license: cc-by-sa-4.0
base: tiny
adapters:
  books: {variant: reader, stage: books}
data:
  talks: {path: data/sft_train.jsonl, format: messages}
  talks-heldout: {path: data/sft_eval.jsonl, format: messages}
  likes: {path: data/pref_train.jsonl, format: preference}
  likes-heldout: {path: data/pref_eval.jsonl, format: preference}
  texts-heldout: {path: data/text_eval.jsonl, format: text}
stages:
  chat: {kind: sft, from: base, data: talks, adapter: {rank: 16}, train: {steps: 100, learning_rate: 3e-3}}
  chatted: {kind: fold, from: base, adapters: {chat: 1.0}}
  pref:
    kind: dpo
    from: chatted
    data: likes
    adapter: {rank: 16}
    train: {steps: 60, max_length: 128, learning_rate: 3e-3, beta: 0.1}
  final: {kind: fold, from: chatted, adapters: {pref: 1.0, books: 0.3}}
  after-sft:
    kind: evaluate
    from: chatted
    against: base
    metrics: {loss: talks-heldout, preference_accuracy: likes-heldout, bits_per_byte: texts-heldout}
  after-dpo:
    kind: evaluate
    from: pref
    against: chatted
    limit: 300
    metrics:
      loss: talks-heldout
      preference_accuracy: likes-heldout
      reward_accuracy: likes-heldout
  after-fold:
    kind: evaluate
    from: final
    against: base
    metrics: {loss: talks-heldout, preference_accuracy: likes-heldout, bits_per_byte: texts-heldout}
release: final
checks:
- {stage: after-fold, metric: loss, max_increase: -0.5}
- {stage: after-fold, metric: bits_per_byte, max_increase: 0.25}
"""

_READER: Final = """\
schema: 1
description: Reads on where the base left off, by the attention weights only; released as an adapter.
license: cc-by-sa-4.0
base: tiny
data:
  texts: {path: data/text_train.jsonl, format: text}
stages:
  books:
    kind: sft
    from: base
    data: texts
    adapter: {rank: 8, targets: attention}
    train: {steps: 24, learning_rate: 1e-3, packing: true, loss_on: all}
release: books
checks: []
"""

_PARAMS: Final = """\
defaults:
  sft: {train: {batch: 8, max_length: 256, warmup: 0.05}}
  dpo: {train: {batch: 8, max_length: 256, warmup: 0.05}}
  evaluate: {batch: 16, max_length: 256, limit: 150}
"""

_LOAD: Final = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
chat = [{"role": "user", "content": "Tom has 3 apples and buys 4 more. How many apples does he have?"}]
tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**tokens, max_new_tokens=40, do_sample=False)[0, tokens["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True).strip().replace("\\n", " "))
"""


@dataclass
class Clone:
    """One repository, and the seconds that its commands took."""

    root: Path
    scratch: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def call(self, *command: str) -> str:
        """Run a command in the repository; its output, or the end of the bench."""
        done = self._run(command)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _run(self, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        scripts = sysconfig.get_path("scripts")
        # Without bytecode every stage would compile the training stack anew.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = kept | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "VARIETAL_STORE": str(self.scratch / "store"),
            "DVC_SITE_CACHE_DIR": str(self.scratch / "site"),
            "DVC_NO_ANALYTICS": "1",
        }
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def refused(self, *command: str) -> str:
        """Run a command that must say no; what it says."""
        done = self._run(command)
        if done.returncode != 1:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}, not with a no\n{done.stdout}\n{done.stderr}")
        return done.stderr

    def repro(self, label: str, *targets: str) -> list[str]:
        """`dvc repro`, timed; the stages that it ran."""
        start = time.monotonic()
        out = self.call("dvc", "repro", *targets)
        self.seconds[label] = time.monotonic() - start
        return [line.split("'")[1].rpartition(":")[2] for line in out.splitlines() if line.startswith("Running stage")]

    def edit(self, old: str, new: str) -> None:
        """Change the assistant's manifest."""
        path = self.root / "models/assistant/model.yaml"
        text = path.read_text(encoding="utf-8")
        if old not in text:
            sys.exit(f"{path.name} does not have {old!r}")
        path.write_text(text.replace(old, new), encoding="utf-8")
        self.call("varietal", "compile")

    def record(self, stage: str, variant: str = "assistant") -> dict[str, object]:
        """A record as JSON."""
        path = self.root / "models" / variant / "records" / f"{stage}.json"
        found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return found


def main() -> int:
    """Build, prove, print; 0 where every claim held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    parser.add_argument("--inputs", type=Path, default=beside, help="folder with bases/ and data/")
    parser.add_argument("--keep", action="store_true", help="leave the temporary repository in place")
    options = parser.parse_args()
    if not (options.inputs / "bases/tiny-llama-5m/config.json").is_file():
        sys.exit(f"{options.inputs} has no bases/tiny-llama-5m: name the folder with --inputs")
    scratch = Path(tempfile.mkdtemp(prefix="varietal-real-chain."))
    start = time.monotonic()
    try:
        team = _make_team(options.inputs, scratch)
        _build(team)
        _prove_loop(team)
        _prove_release(team)
    finally:
        if options.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch)
    return _sum_up(team, time.monotonic() - start)


def _make_team(inputs: Path, scratch: Path) -> Clone:
    team = Clone(root=scratch / "team", scratch=scratch)
    shutil.copytree(inputs / "bases/tiny-llama-5m", team.root / "sources/tiny-llama-5m")
    team.call("varietal", "init", ".", "--base", "tiny=sources/tiny-llama-5m")
    for name in _DATA:
        shutil.copy(inputs / "data" / f"{name}.jsonl", team.root / "data")
    for variant, text in {"assistant": _ASSISTANT, "reader": _READER}.items():
        (team.root / "models" / variant).mkdir()
        (team.root / "models" / variant / "model.yaml").write_text(text, encoding="utf-8")
    params = team.root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("defaults: {}\n", _PARAMS), encoding="utf-8")
    team.call("varietal", "compile")
    team.call("git", "config", "user.name", "Bench")
    team.call("git", "config", "user.email", "bench@example.invalid")
    team.call("dvc", "remote", "add", "--quiet", "--default", "store", str(scratch / "remote"))
    team.call("dvc", "remote", "modify", "--quiet", "store", "verify", "true")
    return team


def _build(team: Clone) -> None:
    ran = team.repro("full build")
    _prove({"base@tiny", "chat", "chatted", "pref", "final", "books"} <= set(ran), "a plain repro built everything")
    steps = {title: _metrics(team, stage, variant)["steps"]["value"] for title, (variant, stage) in _TRAININGS.items()}
    print("steps:", ", ".join(f"{title} {count:.0f}" for title, count in steps.items()))
    print(f"\n{'held out':34}{'before':>9}{'after':>9}")
    for stage, title in (("after-sft", "base -> SFT"), ("after-dpo", "SFT -> DPO"), ("after-fold", "base -> final")):
        for label, found in _metrics(team, stage).items():
            before = f"{found['against']:.4f}" if "against" in found else "-"
            print(f"{title:14}{label:20}{before:>9}{found['value']:>9.4f}")
    print("\nstage          seconds  peak MiB")
    for stage in ("chat", "chatted", "pref", "final", "after-sft", "after-dpo", "after-fold"):
        record = team.record(stage)
        print(f"{stage:14} {record['duration_s']:>8} {record['peak_memory_mib']:>9}")
    sft, dpo = _metrics(team, "after-sft"), _metrics(team, "after-dpo")
    _prove(sft["loss"]["value"] < sft["loss"]["against"], "SFT lowers the held-out loss")
    accuracy, reward = dpo["preference_accuracy"], dpo["reward_accuracy"]["value"]
    error = (_CHANCE * (1 - _CHANCE) / _PAIRS) ** 0.5
    rose = accuracy["value"] > accuracy["against"]
    print(
        f"{'shown' if rose else 'NOT SHOWN'}: DPO raises the held-out preference accuracy "
        f"({accuracy['against']:.3f} to {accuracy['value']:.3f}; by reward {reward:.3f}; standard error {error:.3f})"
    )


def _prove_loop(team: Clone) -> None:
    print()
    _prove(team.repro("nothing to do") == [], "a second repro runs nothing")
    before = team.record("final")["artifact"]
    team.edit("beta: 0.1", "beta: 0.2")
    follows = ["pref", "final", "after-dpo", "after-fold", "records"]
    _prove(team.repro("beta changed") == follows, "another beta reruns DPO and what follows, nothing else")
    _prove(team.record("final")["artifact"] != before, "and gives another model")
    team.edit("beta: 0.2", "beta: 0.1")
    _prove(team.repro("beta changed back") == ["records"], "going back trains nothing")
    _prove(team.record("final")["artifact"] == before, "and gives the model that was there before")
    team.edit("schema: 1\n", "# a comment\nschema: 1\n")
    team.edit(
        "{steps: 60, max_length: 128, learning_rate: 3e-3, beta: 0.1}",
        "{beta: 0.10, learning_rate: 0.003, max_length: 128, steps: 60}",
    )
    _prove(team.repro("reordered") == [], "a comment, another order and other spellings of numbers rerun nothing")
    shutil.copytree(team.root / "models/assistant", team.root / "models/twin", ignore=_only_manifest)
    team.call("varietal", "compile")
    team.repro("a copied variant", "models/twin/dvc.yaml")
    stages = ("chat", "chatted", "pref", "final", "after-sft", "after-dpo", "after-fold")
    reused = [team.record(stage, "twin")["reused_from"] == [f"assistant:{stage}"] for stage in stages]
    _prove(all(reused), "a copied variant computes nothing")


def _prove_release(team: Clone) -> None:
    team.call("git", "add", "--all")
    team.call("git", "commit", "--quiet", "--message", "Build")
    team.call("dvc", "push", "--quiet")
    # Learning to answer costs a model of this size more of its books than the manifest allows at first.
    refusal = team.refused("varietal", "release", "assistant@v1.0.0")
    _prove("bits_per_byte of after-fold" in refusal, "a release beyond its bound is refused")
    team.edit("max_increase: 0.25", "max_increase: 1.0")
    _prove(team.repro("another bound") == [], "another bound evaluates nothing anew")
    team.call("git", "commit", "--quiet", "--all", "--message", "Pay more bits of the books for answers")
    team.call("varietal", "release", "assistant@v1.0.0")
    team.call("git", "clone", "--quiet", str(team.root), str(team.scratch / "other"))
    other = Clone(root=team.scratch / "other", scratch=team.scratch)
    start = time.monotonic()
    pulled = json.loads(other.call("varietal", "pull", "assistant@v1.0.0", "../pulled", "--json"))
    team.seconds["pull"] = time.monotonic() - start
    print(f"pulled {pulled['moved_bytes']} bytes in {team.seconds['pull']:.1f} s")
    other.call("varietal", "verify", "assistant@v1.0.0", "../pulled")
    print("proven: a release pulled in another clone has the bytes that the tag promises")
    print("it says:", other.call(sys.executable, "-c", _LOAD, "../pulled").strip())


def _sum_up(team: Clone, total_s: float) -> int:
    print("\n" + "\n".join(f"{label:20}{seconds:8.1f} s" for label, seconds in team.seconds.items()))
    idle, full = team.seconds["nothing to do"], team.seconds["full build"]
    results = [
        {
            "bench": "real_chain: a rebuild with nothing to do",
            "ours": round(idle, 2),
            "peer": round(full, 2),
            "unit": "s",
            "ratio": round(idle / full, 4),
            "bound": _IDLE_BOUND,
            "holds": idle <= _IDLE_BOUND * full,
        },
        {
            "bench": "real_chain: all of it",
            "ours": round(total_s, 1),
            "peer": _BOUND_S,
            "unit": "s",
            "ratio": round(total_s / _BOUND_S, 3),
            "bound": 1.0,
            "holds": total_s <= _BOUND_S,
        },
    ]
    print(json.dumps(results))
    return 0 if all(result["holds"] for result in results) else 1


def _metrics(team: Clone, stage: str, variant: str = "assistant") -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = team.record(stage, variant)["metrics"]  # type: ignore[assignment] # a record's JSON
    return found


def _only_manifest(folder: str, names: list[str]) -> list[str]:
    del folder
    return [name for name in names if name != "model.yaml"]


def _prove(holds: bool, claim: str) -> None:  # noqa: FBT001 - the claim is its name
    if not holds:
        sys.exit(f"NOT SO: {claim}")
    print(f"proven: {claim}")


if __name__ == "__main__":
    sys.exit(main())
