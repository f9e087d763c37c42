"""What people would use instead, fitted on training cells only."""

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier


def lsi(matrix, train, n_components=50, seed=0):
    """Latent semantic indexing of cells x peaks: TF-IDF, SVD of the training cells, without the first component."""
    pattern = sp.csr_matrix((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
    pattern.eliminate_zeros()
    idf = np.log1p(train.sum() / (1 + pattern[train].getnnz(axis=0)))
    weighted = (sp.diags(1 / np.maximum(pattern.getnnz(axis=1), 1)) @ pattern @ sp.diags(idf)).tocsr()
    weighted.data = np.log1p(1e4 * weighted.data)
    svd = TruncatedSVD(n_components + 1, random_state=seed).fit(weighted[train])
    return standardise(svd.transform(weighted)[:, 1:], train)


def standardise(embedding, train):
    """Zero mean and unit variance over the training cells."""
    return (embedding - embedding[train].mean(axis=0)) / embedding[train].std(axis=0)


def logistic(embedding, labels, train):
    """Labels of the other cells by logistic regression."""
    return LogisticRegression(max_iter=1000).fit(embedding[train], labels[train]).predict(embedding[~train])


def nearest(embedding, labels, train, n_neighbors=15):
    """Labels of the other cells by the vote of their nearest training cells."""
    return KNeighborsClassifier(n_neighbors).fit(embedding[train], labels[train]).predict(embedding[~train])


def ridge(embedding, expression, train, penalty=10.0):
    """Expression of the other cells by ridge regression."""
    return Ridge(penalty).fit(embedding[train], expression[train]).predict(embedding[~train])
