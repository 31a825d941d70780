"""The built-in world: fictional people, deterministic, small enough to memorise in a minute."""

from __future__ import annotations

from expunge.corpus.synthetic.world import World, WorldSize

__all__ = ["World", "WorldSize"]
