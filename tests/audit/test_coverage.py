from __future__ import annotations

from expunge.audit.store import condense
from expunge.quant.base import TensorCoverage


def test_tensors_are_grouped_by_what_was_done_and_the_rest_is_named() -> None:
    tensors = [
        TensorCoverage(name="a", shape=(4, 8), how="int4"),
        TensorCoverage(name="b", shape=(2, 8), how="int4"),
        TensorCoverage(name="norm", shape=(8,), why_not="a norm"),
        TensorCoverage(name="head", shape=(16, 8), why_not="the output head"),
    ]
    assert condense(tensors) == [
        {"changed": True, "what": "int4", "tensors": 2, "weights": 48, "names": []},
        {"changed": False, "what": "a norm", "tensors": 1, "weights": 8, "names": ["norm"]},
        {"changed": False, "what": "the output head", "tensors": 1, "weights": 128, "names": ["head"]},
    ]
    assert condense([]) == []
