"""A classifier of short texts: counts of words and of character n-grams, and a linear model of them."""

from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

MODEL = "bayes"  # bayes, complement or svm
ALPHA = 1.0  # smoothing of bayes and complement
C = 1.0  # of svm: the larger, the less it is regularised
WORD_NGRAMS = 1  # longest sequence of words that counts
CHAR_NGRAMS = 0  # longest sequence of characters that counts, from 2; 0: none
CHAR_WEIGHT = 0.5  # of a sequence of characters against one of words
MIN_COUNT = 1  # texts that a sequence must occur in
TF_IDF = False  # rare sequences count more, and all texts the same
SUBLINEAR_TF = False  # 1 + log(n) in place of n occurrences
CLASS_PRIOR = True  # bayes: a label that is frequent in training is likelier


def train(texts: Sequence[str], labels: Sequence[str], seed: int) -> Pipeline:
    """A model with a method `predict`, which takes texts and returns labels."""
    return Pipeline([("counts", _counts()), ("model", _model(seed))]).fit(texts, labels)


def _counts() -> FeatureUnion:
    words = CountVectorizer(ngram_range=(1, WORD_NGRAMS), min_df=MIN_COUNT, token_pattern=r"\w+")
    parts, weights = [("words", _weighted(words))], {"words": 1.0}
    if CHAR_NGRAMS:
        characters = CountVectorizer(analyzer="char_wb", ngram_range=(2, CHAR_NGRAMS), min_df=MIN_COUNT)
        parts.append(("characters", _weighted(characters)))
        weights["characters"] = CHAR_WEIGHT
    return FeatureUnion(parts, transformer_weights=weights)


def _weighted(counts: CountVectorizer) -> Pipeline:
    weight = TfidfTransformer(norm="l2" if TF_IDF else None, use_idf=TF_IDF, sublinear_tf=SUBLINEAR_TF)
    return Pipeline([("counts", counts), ("weight", weight)])


def _model(seed: int) -> MultinomialNB | ComplementNB | LinearSVC:
    if MODEL == "svm":
        return LinearSVC(C=C, tol=0.01, random_state=seed)
    if MODEL == "complement":
        return ComplementNB(alpha=ALPHA)
    return MultinomialNB(alpha=ALPHA, fit_prior=CLASS_PRIOR)
