"""Generation: greedy continuations, cached, prefetched and decoded several tokens a step."""
