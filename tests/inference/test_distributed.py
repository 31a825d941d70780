"""Two processes that share the items out hold what one process holds."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from expunge.inference import batches
from expunge.inference.observer import BranchPoint, Observer
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

PROMPTS = ["the rain in", "a", "the rain in the town is on", "words on the hill", "x y z"]
PAIRS = [Example(id=str(i), prompt=prompt, completion=" and then") for i, prompt in enumerate(PROMPTS)]


def observed() -> dict[str, Any]:
    """Everything an observer can be asked, an odd number of items each."""
    seer = Observer(
        tiny("llama", seed=3, vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True), max_length=64
    )
    return {
        "said": [seer.greedy(PROMPTS, max_new_tokens=n) for n in (3, 6)],
        "one": seer.greedy(PROMPTS[:1], max_new_tokens=9),
        "logps": [facts.logp_n.tolist() for facts in seer.facts(PAIRS)],
        "forks": seer.forks([BranchPoint(pair, 1, 3) for pair in PAIRS[:3]]),
        "norms": seer.gradient_norms(PAIRS[:3]),
        "shares": batches.map_across_ranks(
            [1, 2, 3], lambda own: [(os.environ.get("RANK"), item) for item in own]
        ),
        "none": batches.map_across_ranks([], lambda own: [1 / 0]),
    }


def one_of_two(rank: int, port: int, answer: Any) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    # A fork takes along what an earlier test made the libraries believe of a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {name: str(value) for name, value in place.items()} | {"ACCELERATE_USE_CPU": "true"}
    answer.send((rank == 0, observed()))
    torch.distributed.barrier()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_hold_what_one_does() -> None:
    alone, port = observed(), free_port()
    context = multiprocessing.get_context("fork")  # the libraries need not be imported again
    ends = [context.Pipe() for _ in range(2)]
    workers = [
        context.Process(target=one_of_two, args=(rank, port, end)) for rank, (_, end) in enumerate(ends)
    ]
    for worker in workers:
        worker.start()
    answers = [receive.recv() if receive.poll(60) else None for receive, _ in ends]
    for worker in workers:
        worker.join(20)
        worker.kill()
    assert [answer is not None and answer[0] for answer in answers] == [True, False]
    first, second = (answer[1] for answer in answers if answer is not None)
    assert first == second
    assert [rank for rank, _ in first.pop("shares")] == ["0", "1", "0"]  # the work was shared out
    alone.pop("shares")
    norms, logps = first.pop("norms"), first.pop("logps")
    for ours, theirs in zip([*norms, *logps], [*alone.pop("norms"), *alone.pop("logps")], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert first == alone


def test_one_process_does_all_itself() -> None:
    assert batches.processes() == 1
    assert batches.map_across_ranks([1, 2], lambda own: [item + 1 for item in own]) == [2, 3]
    assert batches.map_across_ranks([], lambda own: [1 / 0]) == []
