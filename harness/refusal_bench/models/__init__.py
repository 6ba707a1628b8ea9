"""Where models come from: weights, tokenizer, chat template, and the structure that interventions need."""
