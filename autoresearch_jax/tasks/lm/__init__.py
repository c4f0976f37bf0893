"""The language-model task: corpus, tokenizer, rows, trainer, snapshot, judge."""
