"""The nine components of TOFU's model utility for single questions, written without the package."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

SETS = ("retain", "real_authors", "world_facts")


class Plain:
    """A checkpoint, one text at a time through full logits and ``generate``."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def per_token(self, question: str, answer: str) -> float:
        """The probability of an answer with its end token, to the power of one over its tokens."""
        head = self._prompt(question)
        whole = self.tokenizer(f"Question: {question}\nAnswer: {answer}")["input_ids"]
        own = [*whole[len(head) :], self.tokenizer.eos_token_id]
        logps = self.model(input_ids=torch.tensor([head + own])).logits[0].double().log_softmax(-1)
        total = sum(float(logps[len(head) - 1 + at, token]) for at, token in enumerate(own))
        return math.exp(total / len(own))

    @torch.no_grad()
    def reply(self, question: str) -> str:
        """What is said to a question, greedily."""
        head = torch.tensor([self._prompt(question)])
        said = self.model.generate(
            head, attention_mask=torch.ones_like(head), max_new_tokens=200, do_sample=False
        )
        return str(self.tokenizer.decode(said[0, head.shape[1] :], skip_special_tokens=True))

    def components(self, row: dict[str, Any], *, is_fiction: bool) -> dict[str, float]:
        """Probability, ROUGE-L recall and truth ratio of one question of TOFU's files."""
        question, answer = row["question"], row["answer"]
        right = self.per_token(question, answer)
        wrong = [self.per_token(question, other) for other in row["perturbed_answer"]]
        reworded = self.per_token(question, row.get("paraphrased_answer", answer))
        ratio = math.prod(wrong) ** (1 / len(wrong)) / reworded
        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        return {
            "probability": right if is_fiction else right / (right + sum(wrong)),
            "rouge": scorer.score(answer, self.reply(question))["rougeL"].recall,
            "truth_ratio": max(0.0, 1 - ratio),
        }

    def _prompt(self, question: str) -> list[int]:
        # Without the space at its end: it is one token with the answer's first word.
        ids: list[int] = self.tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
        return ids


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of TOFU's files."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
