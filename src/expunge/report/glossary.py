"""The words of a report, for those who meet them here first."""

GLOSSARY = (
    ("Forget set", "The texts that were to be forgotten."),
    ("Target", "The model before unlearning: it knows the forget set."),
    ("Retrained", "A model trained the same way without the forget set: what one knows who never saw it."),
    ("Unlearned", "The target after an unlearning method was applied to it."),
    ("Full precision", "The model as it was saved, nothing rounded."),
    (
        "Quantized",
        "Rounded to few bits per weight (int8, int4, NF4 …) to be served more cheaply, as most models are.",
    ),
    (
        "Recovery",
        "How much more a model knows of the forget set once it is quantized: text that came back.",
    ),
    (
        "Against the target",
        "What a model knows in percent of what the target knows, both rounded alike: all, if that is 100.",
    ),
    ("Utility", "How well the model still answers what it was to keep."),
    (
        "Interval",
        "What other texts of the same kind would give, 95 times in 100. A wide one means few items.",
    ),
    ("Leaked word", "A word of an answer that stands in the truth, in the same order."),
    ("SHA-256", "A fingerprint of a file: another fingerprint, another file."),
)
