"""The command lines that read what is broken, and words that make no sense as an option's value."""

from __future__ import annotations

QUICK = tuple("--set epochs=1 --set batch_size=4 --set learning_rate=1e-3".split())
METRICS = tuple("--metric knowmem_forget --metric probability --metric utility".split())
SETS = tuple("--forget forget.jsonl --retain retain.jsonl".split())
AUDIT = ("audit", "one", "--target", "target", *SETS, *METRICS, *"-q int4 --max-items 2".split())
RESUME = (*AUDIT, "-o", "audit")

UNLEARN = ("unlearn", "target", *SETS, "-r", "ga_gdr", *QUICK, "-o", "out")
ASK = tuple("audit target --forget forget.jsonl --metric probability -o out".split())
QUANTIZE = tuple("quantize target -q int4 -o out".split())
FINETUNE = ("finetune", "--model", "target", "--data", "forget.jsonl", *QUICK, "-o", "out")
MODEL = (UNLEARN, ASK, QUANTIZE, FINETUNE)
"""What reads the checkpoint ``target``."""
PARTS = tuple(tuple("parts" if word == "target" else word for word in command) for command in MODEL)
"""The same with the checkpoint that consists of several files."""

ANCHORS = tuple("anchors forget.jsonl --at-least 1 -o out.json".split())
ANNOTATE = tuple("annotate forget.jsonl -o out.jsonl".split())
FAIR = tuple("shards fair votes.jsonl".split())
DEAL = tuple("shards plan --data retain.jsonl --model target --shards 1 -o out".split())
PLAN = (
    tuple("shards verify plan".split()),
    tuple("shards train plan".split()),
    tuple("shards delete plan --id e1".split()),
    tuple("shards predict plan --data forget.jsonl -o out.jsonl".split()),
)
REPORTS = (
    *(tuple(f"report audit -f {form} -o out.{form}".split()) for form in "html md csv json svg".split()),
    tuple("report audit --reveal -o out.html".split()),
    tuple("report audit audit -o out.html".split()),
    tuple("runs .".split()),
    tuple("inspect audit --host 203.0.113.1 --no-browser".split()),  # nobody's: it never begins to serve
)
REQUESTED = (
    tuple("ledger two".split()),
    tuple("ledger two --gather all.jsonl".split()),
    ("unlearn", "two", "--forget", "forget.jsonl", "-r", "ga", *QUICK, "-o", "out"),
    tuple("audit two --forget forget.jsonl --metric probability -o out".split()),
    tuple("runs .".split()),
)
ADAPTER = tuple("merge target --subtract adapted -o out".split())
LAYERS = tuple("merge target --fuse layers -o out".split())
SWAP = ("unlearn", "target", *SETS, *"-r whp --set stages.1.anchors=anchors.json -o out".split())
OTHERS = (
    *(ADAPTER, LAYERS),
    tuple("ledger two".split()),
    tuple("attack one --target target -a prune".split()),
)

COMMON = "--seed --output --field --nonsense --max-items --max-length --overwrite"
OPTIONS = {
    "unlearn": "--forget --retain --holdout --reforget --recipe --save-dtype",
    "audit": "--forget --retain --holdout --probes --benchmark --data --target --quantize --metric "
    "--workers --calibrate --calibration-samples --calibration-length --seeds-of --retain-icl --forget-icl "
    "--neighbours --paraphrase",
    "quantize": "--quantize -q --format --calibrate --calibration-samples",
    "finetune": "--data --tokenizer --size --model",
    "anchors": "--spacy --at-least",
    "annotate": "--kind --at-least --spacy --model --reference --below",
    "shards": "--shards --slices --owners --near --deal --size --set --workers --executor --id --group "
    "--data --by --max-new-tokens --head --heldout --constraint --method --slack --address",
    "report": "--format",
    "runs": "",
    "inspect": "--port --budget --host",
    "merge": "--add --subtract --contrast --keep --fuse",
    "ledger": "--gather",
    "attack": "--attack --retrained --forget --retain --probes --metric",
}
NUMBERS = ("9" * 30, *"0 -1 1 2 3 1000000000 1.5 0.0001 1e400 -inf ² ٣".split())
SPECS = (
    "int8 int4-g64 int4-g0 int99 int-1 nf4 fp4-g7 gptq4-g128 gptq4-g1 awq gguf NAME: : a:b=c gcg: x= =x - "
    "self knowmem_forget:x=1 knowmem_forget:max_new_tokens= relearn:steps=1e9 prune:share=2 target,one "
    "a=target,one forget.jsonl target plan nowhere tofu-forget10 muse-news retain hidden=1000000000 "
    "hidden=-1 layers=99999999 a.b.c=1"
).split()
