"""The models: loading them, the map of their modules, the precision of their weights."""

from expunge.quiet import keep_kernels_out

keep_kernels_out()  # before the modules of this room import transformers
