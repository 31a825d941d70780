"""Recipes, stages and the training loop."""

from expunge.quiet import keep_kernels_out

keep_kernels_out()  # before the modules of this room import transformers' trainer, which imports peft
