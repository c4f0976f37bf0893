"""Text into rows of tokens: corpora, splits, vocabularies, packing, and the dataset that they make."""
