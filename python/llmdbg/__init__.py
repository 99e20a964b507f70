"""llmdbg finds the first operator that goes wrong between two runs of one LLM."""
