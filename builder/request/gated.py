"""The gate's words on several variants, and on a request as a whole: text, Markdown, JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.markdown import code, plain
from builder.request.names import shown

if TYPE_CHECKING:
    from builder.release import Verdict
    from builder.request.assembled import Assembled
    from builder.request.between import Between
    from registry.canonical import JSON
    from registry.gate import Judgement

__all__ = ["Gated"]

_MOST = 50  # paths that a comment lists
_SQUASH = "squash the commits of the request, so that none of them has it"
_REBASE = "rebase the request onto main, which has that commit, but not on its line"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """What the gate says.

    Attributes:
        verdicts: One a variant.
        assembled: The request that was judged; ``None`` where the work tree itself was.
        unwritten: Pipelines, locks and records of the request that are not what a runner wrote: they would be merged.
        bounds: Variants whose checks the request itself changes.
        between: Records that no runner wrote, in commits of the request that end with others.
    """

    verdicts: tuple[Verdict, ...]
    assembled: Assembled | None = None
    unwritten: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    between: tuple[Between, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing stands against it."""
        return not self.unwritten and not self.between and all(one.passed for one in self.verdicts)

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal gate --json``."""
        value: dict[str, JSON] = {
            "passed": self.passed,
            "variants": [one.to_json() for one in self.verdicts],
            "request": None,
        }
        if self.assembled is not None:
            value["request"] = {
                **self.assembled.to_json(),
                "unwritten": [*self.unwritten],
                "bounds": [*self.bounds],
                "between": [
                    {"commit": one.commit, "path": shown(one.path), "merged": one.merged} for one in self.between
                ],
            }
        if self.assembled is None and len(self.verdicts) == 1:
            return {**self.verdicts[0].to_json(), **value}
        return value

    def lines(self) -> list[str]:
        """For a terminal."""
        found: list[str] = []
        for one in self.verdicts:
            name = f"{one.variant}: " if len(self.verdicts) > 1 or self.assembled is not None else ""
            lines = [f"{'pass' if row.passed else 'FAIL'}  {name}{row.reason}" for row in one.judgements]
            lines += [f"FAIL  {name}{reason}" for reason in one.stale]
            found += lines or [f"{'pass  ' if name else ''}{name}no checks, on purpose; the lock is fresh"]
        found += [f"FAIL  {path} is not what a runner wrote" for path in self.unwritten]
        found += [f"FAIL  {shown(str(one))} is not what a runner wrote: {_mend(one)}" for one in self.between[:_MOST]]
        found += [f"look  {name}: the request changes its checks" for name in self.bounds]
        if self.assembled is not None:
            found += [f"look  {path} was not taken from the request: review it as code" for path in self.assembled.left]
        return found or ["nothing to judge"]

    def failures(self) -> list[str]:
        """Every line that says no."""
        return [line.removeprefix("FAIL  ") for line in self.lines() if line.startswith("FAIL")]

    def markdown(self) -> str:
        """For a comment on the request; what others wrote cannot do anything in it."""
        head = "### Gate: passed" if self.passed else "### Gate: **failed**"
        parts = [head]
        if self.assembled is not None:
            request, main = self.assembled.request[:12], self.assembled.main[:12]
            parts.append(f"Request {code(request)} with the tool and configuration of main, {code(main)}.")
        parts += [_table(one) for one in self.verdicts] or ["No variant is touched."]
        if self.bounds:
            parts.append("**The request changes the checks** that these are judged by:\n" + _list(self.bounds))
        if self.unwritten:
            parts.append("**Not what a runner wrote**, and it would be merged:\n" + _list(self.unwritten))
        for mend in (_SQUASH, _REBASE):
            if items := tuple(str(one) for one in self.between if _mend(one) == mend):
                parts.append(
                    f"**Not what a runner wrote**, in commits that would come with it; {mend}:\n{_list(items)}"
                )
        if self.assembled is not None and self.assembled.left:
            parts.append("Not taken from the request. **Review these as code**:\n" + _list(self.assembled.left))
        return "\n\n".join(parts) + "\n"


def _mend(one: Between) -> str:
    return _REBASE if one.merged else _SQUASH


def _table(verdict: Verdict) -> str:
    rows = [f"#### {code(verdict.variant)}: {'passed' if verdict.passed else '**failed**'}", ""]
    if verdict.judgements:
        rows += ["| | check | measured | before | bound |", "|---|---|---|---|---|"]
        rows += [_row(one) for one in verdict.judgements]
    elif not verdict.stale:
        rows.append("No checks, on purpose; the lock is fresh.")
    if verdict.stale:
        rows += ["", "The lock is stale:", _list(verdict.stale)]
    return "\n".join(rows)


def _row(one: Judgement) -> str:
    mark = "pass" if one.passed else "**FAIL**"
    if not one.metric:
        return f"| {mark} | {plain(one.reason)} | | | |"
    value, against = ("" if number is None else f"{number:g}" for number in (one.value, one.against))
    return f"| {mark} | {code(one.metric)} of {code(one.stage)} | {value} | {against} | {plain(one.bound)} |"


def _list(items: tuple[str, ...]) -> str:
    rows = [f"- {code(one)}" for one in items[:_MOST]]
    return "\n".join([*rows, *([f"- and {len(items) - _MOST} more"] if len(items) > _MOST else [])])
