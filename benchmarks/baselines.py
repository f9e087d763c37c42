"""Baselines, fitted to training cells only."""

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression, Ridge


def lsi(matrix, train, n_components=50, seed=0):
    """Latent semantic indexing: TF-IDF and SVD of training cells, without the first component."""
    pattern = sp.csr_matrix(
        (np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape
    )
    pattern.eliminate_zeros()
    idf = np.log1p(train.sum() / (1 + pattern[train].getnnz(axis=0)))
    weighted = (
        sp.diags(1 / np.maximum(pattern.getnnz(axis=1), 1)) @ pattern @ sp.diags(idf)
    ).tocsr()
    weighted.data = np.log1p(1e4 * weighted.data)
    svd = TruncatedSVD(n_components + 1, random_state=seed).fit(weighted[train])
    return standardise(svd.transform(weighted)[:, 1:], train)


def standardise(embedding, train):
    """Scale to zero mean and unit variance in the training cells."""
    return (embedding - embedding[train].mean(axis=0)) / embedding[train].std(axis=0)


def logistic(embedding, labels, train):
    """Predict the labels of the other cells by logistic regression."""
    return (
        LogisticRegression(max_iter=1000)
        .fit(embedding[train], labels[train])
        .predict(embedding[~train])
    )


def ridge(embedding, expression, train, penalty=10.0):
    """Predict the expression of the other cells by ridge regression."""
    return Ridge(penalty).fit(embedding[train], expression[train]).predict(embedding[~train])


def harmony(embedding, obs, batch_key, seed=0):
    """Harmony on an embedding. Requires harmonypy."""
    import harmonypy

    corrected = np.asarray(
        harmonypy.run_harmony(embedding, obs, [batch_key], random_state=seed, verbose=False).Z_corr
    )
    return corrected if len(corrected) == len(embedding) else corrected.T


STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def tempered_logistic(embedding, labels, train, held):
    """Logistic regression with the penalty and temperature that are best on the held cells.

    Returns the classes, and a function from embeddings to their probabilities.
    """
    codes_of = np.unique(labels[train])
    known = held & np.isin(labels, codes_of)
    codes = np.searchsorted(codes_of, labels[known])

    def loss(log_temperature, logits):
        heated = logits / np.exp(log_temperature)
        return np.mean(logsumexp(heated, axis=1) - heated[np.arange(len(codes)), codes])

    found = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(embedding[train], labels[train])
        logits = embedding[known] @ model.coef_.T + model.intercept_
        best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", args=(logits,))
        found.append((best.fun, np.exp(best.x), model))
    _, temperature, model = min(found, key=lambda each: each[0])
    return codes_of, lambda z: softmax((z @ model.coef_.T + model.intercept_) / temperature, axis=1)
