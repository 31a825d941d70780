"""A normalizer that blows texts up is refused; those that are in use are not."""

from __future__ import annotations

import pytest
from tokenizers import Regex, normalizers

from expunge.errors import ModelError
from expunge.model.load import check_normalizer
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFC(),
        normalizers.BertNormalizer(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Sequence(
            [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.Replace(Regex(" {2,}"), "▁")]
        ),
    ],
)
def test_those_in_use_are_let_pass(normalizer: normalizers.Normalizer) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizer
    check_normalizer(tokenizer)


@pytest.mark.parametrize(
    ("normalizer", "said"),
    [
        (normalizers.Replace("a", "b" * 1000), "1,000 times longer"),
        # 2 ** 10 = 1024
        (normalizers.Sequence([normalizers.Replace("a", "aa")] * 10), "1,024 times longer"),
        (normalizers.Replace(Regex(""), "b" * 99), "100 times longer"),
        (normalizers.Prepend("b" * 2000), "2,000 characters longer"),
    ],
)
def test_one_that_makes_a_text_far_longer_is_refused(normalizer: normalizers.Normalizer, said: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizer
    with pytest.raises(ModelError, match=said):
        check_normalizer(tokenizer)
