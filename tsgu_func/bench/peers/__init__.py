"""All with whom this library is compared, by the work that they do: the one list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tsgu_func.bench.peers import arrays, bound, derivatives, solves, tensors
from tsgu_func.bench.peers.peer import Peer

__all__ = ["PEERS", "missing", "packages", "prepared"]

PEERS: Mapping[str, Mapping[str, Peer]] = {
    "mm": {**tensors.MM, **arrays.MM, **bound.MM},
    "batched mm": tensors.BATCHED_MM,
    "spgemm": {**arrays.SPGEMM, **tensors.SPGEMM},
    "triangular": tensors.TRIANGULAR,
    "gather_mm": tensors.GATHER_MM,
    "segment_mm": tensors.SEGMENT_MM,
    "lstsq": {**arrays.LSTSQ, **tensors.LSTSQ},
    "jacobian": derivatives.DERIVATIVE,
    "solve": solves.SOLVE,
}


def prepared(work: str, *inputs: Any, backward: bool) -> dict[str, Any]:
    """Return the contenders of all peers that are installed and can do this."""
    peers = {name: peer for name, peer in PEERS[work].items() if peer.installed}
    ready = {name: peer.prepare(*inputs, backward=backward) for name, peer in peers.items()}
    return {name: contender for name, contender in ready.items() if contender is not None}


def missing(works: Iterable[str]) -> dict[str, str]:
    """Return the peers that are not installed, and what to install for each."""
    return {
        name: peer.distribution
        for work in works
        for name, peer in PEERS[work].items()
        if not peer.installed
    }


def packages(works: Iterable[str]) -> list[str]:
    """Return what all peers are distributed as, whose versions matter."""
    peers = [peer for work in works for peer in PEERS[work].values() if peer.package]
    names = (name for peer in peers for name in (peer.distribution.partition("[")[0], peer.beside))
    return [name for name in dict.fromkeys(names) if name]
