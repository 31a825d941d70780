"""The durability study: which ingredient of unlearning lets the forgotten come back under a quantizer?"""
