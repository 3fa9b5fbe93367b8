"""Protected channels: who may point one at a release, as ``channels:`` of params.yaml says. Values only.

A channel without a rule is open: whoever can push a tag can move it. With a rule, an assignment counts only where one
of the promoters signed its tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.refs import check_channel
from registry.ssh_key import PublicKey
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["ChannelRule", "read_rules"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelRule:
    """Who may move a channel.

    Attributes:
        promoters: Public keys by the name of their holder; at least one.
    """

    promoters: Mapping[str, PublicKey]


def read_rules(params: JSON, *, where: str) -> dict[str, ChannelRule]:
    """The rules of params.yaml by channel; none where it has no ``channels:``.

    Other keys are not looked at: a rule must hold in a repository whose params.yaml is of another version too.

    Raises:
        InvalidError: The rules break their schema; no channel can be trusted then.
    """
    table = Table(params, where)
    if "channels" not in table.names():
        return {}
    channels = table.table("channels")
    return {check_channel(name): _read_rule(channels.table(name)) for name in channels.names()}


def _read_rule(table: Table) -> ChannelRule:
    table.only("promoters")
    promoters = table.table("promoters")
    keys = {name: PublicKey.parse(promoters.text(name), where=promoters.where) for name in promoters.names()}
    if not keys:
        promoters.only("at least one promoter")
    return ChannelRule(promoters=keys)
