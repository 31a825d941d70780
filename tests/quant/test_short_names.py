"""Short names of quantizers: what they mean, that labels can be typed back, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.quant import EXAMPLES, FULL_PRECISION, parse_quantizer, quantizers
from expunge.quant.awq import AWQ
from expunge.quant.base import Quantizer
from expunge.quant.bnb import FP4, NF4, BnbInt8
from expunge.quant.gptq import GPTQ
from expunge.quant.llmc import LLMCompressorAWQ, LLMCompressorGPTQ, LLMCompressorRTN
from expunge.quant.rtn import RTN


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("int4", RTN(bits=4, granularity="row", scale="sym_restricted")),
        ("int4-row", RTN(bits=4)),
        (" INT4-G64 ", RTN(bits=4, group_size=64)),
        ("int4-tensor", RTN(bits=4, granularity="tensor")),
        ("int3", RTN(bits=3)),
        ("int8", RTN(bits=8)),
        ("int4-paper", RTN(bits=4, scale="paper")),
        ("int4-g64-asymmetric", RTN(bits=4, group_size=64, scale="asymmetric")),
        ("rtn:bits=4,group_size=32", RTN(bits=4, group_size=32)),
        ("rtn: bits = 2, scale = sym_full", RTN(bits=2, scale="sym_full")),
        ("fp4", FP4()),
        ("nf4", NF4()),
        ("nf4:blocksize=128", NF4(blocksize=128)),
        ("bnb-int8", BnbInt8()),
        ("gptq4", GPTQ(bits=4)),
        ("GPTQ3-g128", GPTQ(bits=3, group_size=128)),
        ("gptq8-row-asymmetric", GPTQ(bits=8, scale="asymmetric")),
        ("gptq4-g64:act_order=false,damping=0.1", GPTQ(group_size=64, act_order=False, damping=0.1)),
        ("gptq:bits=4,group_size=32", GPTQ(group_size=32)),
        ("awq4-g128", AWQ(group_size=128)),
        ("awq4-sym_half:clip=false", AWQ(scale="sym_half", clip=False)),
        ("llmc-gptq4-g128", LLMCompressorGPTQ(group_size=128)),
        ("llmc-rtn8", LLMCompressorRTN(bits=8)),
        ("llmc-awq:bits=3", LLMCompressorAWQ(bits=3)),
    ],
)
def test_short_names(text: str, meaning: Quantizer) -> None:
    assert parse_quantizer(text) == meaning


@settings(deadline=None)
@given(
    st.builds(
        lambda bits, where, scale: RTN(bits=bits, scale=scale, **where),
        st.integers(2, 8),
        st.sampled_from([{}, {"granularity": "tensor"}, {"group_size": 1}, {"group_size": 128}]),
        st.sampled_from(["sym_restricted", "sym_full", "sym_half", "asymmetric", "paper"]),
    )
    | st.builds(
        GPTQ,
        bits=st.integers(2, 8),
        group_size=st.sampled_from([None, 32, 128]),
        scale=st.sampled_from(["sym_half", "sym_full", "asymmetric"]),
        damping=st.sampled_from([0.01, 0.001, 1e-5]),
        act_order=st.booleans(),
    )
    | st.builds(AWQ, group_size=st.sampled_from([None, 64]), steps=st.integers(2, 30), clip=st.booleans())
    | st.sampled_from([FP4(), NF4(), NF4(blocksize=32), BnbInt8()])
)
def test_labels_are_read_back(quantizer: Quantizer) -> None:
    assert parse_quantizer(quantizer.label) == quantizer


def test_the_examples_are_valid_and_every_registered_name_is_one() -> None:
    for text in (*EXAMPLES, *quantizers):
        assert parse_quantizer(text)


@pytest.mark.parametrize("text", FULL_PRECISION)
def test_full_precision_is_not_a_quantizer(text: str) -> None:
    with pytest.raises(RecipeError, match="always measured at full precision"):
        parse_quantizer(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int4g64", "Did you mean 'int4-g64'"),
        ("nf5", "Did you mean 'nf4'"),
        ("zzz-q9", "Known: ao-int4, .*awq, awq4"),
        ("", "Known: "),
        ("int9", "less than or equal to 8"),
        ("int1", "greater than or equal to 2"),
        ("int4-g0", "group_size"),
        ("rtn:bit=4", "bit: extra inputs are not permitted.*Did you mean .bits"),
        ("rtn:bits", "'bits' is not a setting"),
        ("rtn:", "'' is not a setting"),
        ("rtn:bits=4,bits=3", "set twice"),
        ("nf4:blocksize=65", "blocksize"),
        ("rtn:granularity=row,group_size=4", "go together"),
        ("gptq9", "less than or equal to 8"),
        ("gptq4-g0", "group_size"),
        ("gptq4-paper", "one level more than its bits can store"),
        ("gptq4:damping=0", "damping"),
        ("gptq4:bits=3,", "is not a setting"),
        ("gptqq4", "Did you mean 'gptq4'"),
    ],
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_quantizer(text)
