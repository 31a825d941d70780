"""Bad models, bad places for results, bad audits."""

from __future__ import annotations

from tests.cli.bad import (
    AUDIT,
    FINETUNE,
    QUANTIZE,
    UNLEARN,
    Bad,
    both,
    config,
    larger_tokenizer,
    long_text_for_gpt2,
    text,
    with_packed_weights,
    without,
)

MODELS = [
    Bad(
        "model folder missing",
        ("unlearn", "./targte", *UNLEARN[2:]),
        ("no folder targte", "Did you mean 'target'"),
    ),
    Bad(
        "model is a file",
        ("unlearn", "forget.jsonl", *UNLEARN[2:]),
        ("forget.jsonl is a file", "Give its folder, '.'"),
    ),
    Bad(
        "name of nothing",
        ("unlearn", "targte", *UNLEARN[2:]),
        ("targte", "there is no folder targte here", "Hub"),
    ),
    Bad(
        "no config.json",
        UNLEARN,
        ("no config.json in target", "save_pretrained wrote"),
        without("config.json"),
    ),
    Bad("no weights", UNLEARN, ("no weights in target", "copy it again"), without("model.safetensors")),
    Bad(
        "pickled weights only",
        UNLEARN,
        ("only pickled weights (pytorch_model.bin)", "can run code", "Convert it once"),
        both(without("model.safetensors"), text("target/pytorch_model.bin", "")),
    ),
    Bad(
        "weights cut short",
        UNLEARN,
        ("cannot load the model of target", "Check that the folder is whole"),
        text("target/model.safetensors", b"\x10"),
    ),
    Bad(
        "no tokenizer",
        UNLEARN,
        ("no tokenizer in target", "tokenizer.json", "Copy the files of the tokenizer it was trained with"),
        without("tokenizer.json", "tokenizer_config.json"),
    ),
    Bad(
        "vocabulary mismatch",
        ("finetune", "--model", "target", "--tokenizer", "other", *FINETUNE[1:]),
        ("the tokenizer does not fit the model", "token ids up to", "the model was trained with"),
        lambda home: larger_tokenizer(home / "other"),
    ),
    Bad(
        "model type unknown",
        UNLEARN,
        ("cannot load the model of target", "`lamma`", "the installed transformers knows this"),
        config(model_type="lamma"),
    ),
    Bad(
        "weights of another shape",
        UNLEARN,
        ("the checkpoint target is incomplete", "3 weights", "down_proj", "config.json belongs"),
        config(intermediate_size=64),
    ),
    Bad(
        "an adapter left beside the weights",
        UNLEARN,
        ("target holds whole weights and an adapter", "adapter_config.json", "Move adapter_config.json"),
        text("target/adapter_config.json", "{}"),
    ),
    Bad(
        "the same in an audit",
        AUDIT,
        ("target holds whole weights and an adapter", "adapter_config.json", "Move adapter_config.json"),
        text("target/adapter_config.json", "{}"),
    ),
    Bad(
        "an index of pickled weights",
        QUANTIZE,
        ("model.safetensors.index.json of target", "'pytorch_model.bin'", "in the same folder"),
        both(
            without("model.safetensors"),
            text("target/pytorch_model.bin", ""),
            text("target/model.safetensors.index.json", '{"weight_map": {"w": "pytorch_model.bin"}}'),
        ),
    ),
    Bad(
        "an audit of weights elsewhere",
        AUDIT,
        (
            "model.safetensors.index.json of target",
            "'../retrained/model.safetensors'",
            "Copy the checkpoint",
        ),
        both(
            without("model.safetensors"),
            text(
                "target/model.safetensors.index.json",
                '{"weight_map": {"w": "../retrained/model.safetensors"}}',
            ),
        ),
    ),
    Bad(
        "a vocabulary beyond the weights",
        UNLEARN,
        ("config.json of target does not belong", "vocab_size = 1,000,000,000", "of another model"),
        config(vocab_size=10**9),
    ),
    Bad(
        "an audit of layers beyond the weights",
        AUDIT,
        ("config.json of target does not belong", "num_hidden_layers = 1,000,000,000"),
        config(num_hidden_layers=10**9),
    ),
    Bad(
        "a size that is a word",
        UNLEARN,
        ("cannot load the model of target", "hidden_size", "Check that the folder is whole"),
        config(hidden_size="large"),
    ),
    Bad(
        "no heads",
        UNLEARN,
        ("cannot load the model of target", "ZeroDivisionError"),
        config(num_attention_heads=0, head_dim=None),
    ),
    Bad(
        "generation settings that are no JSON",
        UNLEARN,
        ("cannot load the model of target",),
        text("target/generation_config.json", "{ no json"),
    ),
    Bad(
        "another quantization",
        UNLEARN,
        ("target is quantized with gptq", "fp8, bitsandbytes, compressed-tensors", "it was made from"),
        both(config(quantization_config={"quant_method": "gptq"}), with_packed_weights),
    ),
    Bad(
        "a text longer than the positions of GPT-2",
        ("unlearn", "gpt2", "--forget", "long.jsonl", "-r", "ga", "-o", "out"),
        ("a text of 1001 tokens", "learned 256 positions", "--set max_length=256"),
        long_text_for_gpt2,
    ),
    Bad(
        "training on such a text",
        ("finetune", "--model", "gpt2", "--data", "long.jsonl", "--set", "pack=true", "-o", "out"),
        ("tokens", "learned 256 positions", "--set max_length=256"),
        long_text_for_gpt2,
    ),
    Bad(
        "asking about such a text",
        ("audit", "gpt2", "--forget", "long.jsonl", "--metric", "verbmem", "-o", "out"),
        ("tokens", "learned 256 positions", "--max-length 256"),
        long_text_for_gpt2,
    ),
    Bad(
        "size that is no size",
        (*FINETUNE, "--size", "width=3"),
        ("--size width=3", "width", "It takes hidden"),
    ),
    Bad(
        "size without a number",
        (*FINETUNE, "--size", "hidden"),
        ("--size hidden", "valid integer", "hidden=256"),
    ),
    Bad(
        "size that no head divides",
        (*FINETUNE, "--size", "hidden=30"),
        ("--size hidden=30", "does not split into 8 heads", "--size hidden=256"),
    ),
    Bad(
        "size of a finished model",
        (*FINETUNE, "--model", "target", "--size", "hidden=64"),
        ("--size with --model target", "already has its size", "Leave out --size"),
    ),
]

OUTPUTS = [
    Bad(
        "existing output",
        (*UNLEARN[:-1], "retrained"),
        ("retrained already exists", "does not overwrite", "--overwrite"),
    ),
    Bad(
        "overwriting what no run wrote",
        (*UNLEARN, "--overwrite"),
        ("out is not an earlier result", "no record.json", "remove it yourself"),
        both(lambda home: (home / "out").mkdir(), text("out/thesis.txt", "years of work")),
    ),
    Bad(
        "output below a file",
        (*UNLEARN[:-1], "forget.jsonl/out"),
        ("cannot write forget.jsonl/out", "not a folder"),
    ),
    Bad(
        "audit below a file",
        (*AUDIT[:-1], "forget.jsonl/out"),
        ("cannot write forget.jsonl/out", "not a folder"),
    ),
    Bad(
        "rounded below a file",
        (*QUANTIZE[:-1], "forget.jsonl/out"),
        ("forget.jsonl/out", "not a folder", "--output"),
    ),
    Bad(
        "another unfinished run",
        UNLEARN,
        (
            "an unfinished run is in out.partial",
            "another recipe, model, data or seed",
            "--overwrite to discard",
        ),
        both(lambda home: (home / "out.partial").mkdir(), text("out.partial/request.json", "{}")),
    ),
    Bad(
        "audit into a model",
        (*AUDIT[:-1], "retrained"),
        ("retrained is not an audit", "mixed", "another --output"),
    ),
    Bad(
        "audit into a file",
        (*AUDIT[:-1], "forget.jsonl"),
        ("forget.jsonl is not an audit", "another --output"),
    ),
]

AUDITS = [
    Bad("no forget set", ("audit", "target", "-o", "out"), ("without a forget set", "Pass --forget FILE")),
    Bad(
        "probes without forget.jsonl",
        ("audit", "target", "--probes", "retrained", "-o", "out"),
        ("without a forget set", "a forget.jsonl in it"),
    ),
    Bad(
        "probes that are not there",
        ("audit", "target", "--probes", "worlds", "-o", "out"),
        ("--probes worlds", "no such folder", "Check the path"),
    ),
    Bad(
        "unknown metric",
        (*AUDIT, "--metric", "utilty"),
        ("metric 'utilty'", "registered", "Did you mean 'utility'"),
    ),
    Bad(
        "unknown quantizer", (*AUDIT, "-q", "int"), ("quantizer 'int'", "no quantizer", "Did you mean 'int")
    ),
    Bad(
        "a quantizer twice",
        (*AUDIT, "-q", "int4", "-q", "int4"),
        ("'int4'", "more than once", "list it once"),
    ),
    Bad(
        "target that is no checkpoint",
        (*AUDIT, "--target", "."),
        ("no config.json in .", "save_pretrained wrote"),
    ),
    Bad(
        "the same model twice", ("audit", "target", *AUDIT[1:]), ("model", "more than once", "list it once")
    ),
    Bad(
        "too few bits",
        ("quantize", "target", "-q", "int1", "-o", "out"),
        ("bits", "greater than or equal to 2"),
    ),
    Bad(
        "full precision",
        ("quantize", "target", "-q", "full", "-o", "out"),
        ("--to full", "nothing", "say int4"),
    ),
    Bad(
        "half precision",
        ("quantize", "target", "-q", "fp16", "-o", "out"),
        ("--to fp16", "nothing", "say int4"),
    ),
    Bad(
        "unknown format",
        ("quantize", "target", "-q", "nf5", "-o", "out"),
        ("quantizer 'nf5'", "Did you mean 'nf4'"),
    ),
    Bad(
        "unknown recipe to show",
        ("methods", "npo_krl"),
        ("recipe 'npo_krl'", "ships", "Did you mean 'npo_klr'"),
    ),
]
