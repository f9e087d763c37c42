"""Gene activity against a sum by hand."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import epifoundation as ep

GENES = pd.DataFrame(
    {
        "chrom": ["chr1", "chr1", "chr2"],
        "start": [10_000, 50_000, 500],
        "end": [20_000, 52_000, 900],
        "strand": ["+", "-", "."],
    },
    index=["A", "B", "C"],
)


def by_hand(matrix, peaks, genes, promoter, max_distance, decay):
    out = np.zeros((len(matrix), len(genes)))
    for g, gene in enumerate(genes.itertuples()):
        low = gene.start - (promoter if gene.strand != "-" else 0)
        high = gene.end + (promoter if gene.strand != "+" else 0)
        for p, peak in enumerate(peaks.itertuples()):
            if peak.chrom != gene.chrom:
                continue
            gap = max(peak.start - high + 1, low - peak.end + 1, 0)
            if gap <= max_distance:
                out[:, g] += matrix[:, p] * np.exp(-gap / decay)
    return out


def test_it_is_the_sum_by_hand():
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, 80_000, 150))
    peaks = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2"], 150),
            "start": start,
            "end": start + rng.integers(100, 900, 150),
        }
    )
    matrix = rng.poisson(0.3, (20, 150)).astype(np.float32)
    peaks.index = [f"p{i}" for i in range(150)]
    atac = AnnData(sp.csr_matrix(matrix), var=peaks)
    for options in ({}, {"promoter": 0, "max_distance": 3_000, "decay": 500}):
        found = ep.tl.gene_activity(atac, annotation=GENES, **options)
        expected = by_hand(
            matrix,
            peaks,
            GENES,
            *({"promoter": 2000, "max_distance": 100_000, "decay": 5000} | options).values(),
        )
        np.testing.assert_allclose(found.X.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert list(found.var_names) == ["A", "B", "C"]
    assert sp.issparse(found.X)
    dense = AnnData(matrix, var=peaks)
    np.testing.assert_allclose(
        ep.tl.gene_activity(dense, annotation=GENES).X.toarray(),
        ep.tl.gene_activity(atac, annotation=GENES).X.toarray(),
        rtol=1e-5,
    )


def test_genes_of_the_rna_modality_and_bad_input():
    mdata = ep.datasets.simulate_multiome(30, 300, 5)
    found = ep.tl.gene_activity(mdata)
    assert found.shape == (30, 5)
    assert (found.obs["cell_type"] == mdata["atac"].obs["cell_type"]).all()
    assert found.var["n_peaks"].min() > 0
    with pytest.raises(ValueError, match="The positions of genes are not known"):
        ep.tl.gene_activity(mdata["atac"])
    with pytest.raises(ValueError, match="`decay` must be an integer of at least 1"):
        ep.tl.gene_activity(mdata, decay=0)
    negative = mdata["atac"].copy()
    negative.X.data[0] = -1
    with pytest.raises(ValueError, match="non-negative counts"):
        ep.tl.gene_activity(negative, annotation=mdata["rna"].var)
