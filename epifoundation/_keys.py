"""The name of everything that is written into the data: one object, shared by writers and plots."""

from dataclasses import dataclass

DEFAULT = "epifoundation"
UNKNOWN = "unknown"  # cell type of what is like no cell of the reference
SEPARATOR = " | "  # between the labels of a set


@dataclass(frozen=True)
class Keys:
    """Names derived from ``key_added``; ``None`` means ``"epifoundation"``."""

    key: str = DEFAULT

    @classmethod
    def of(cls, key_added: str | None) -> "Keys":
        if key_added is not None and (not isinstance(key_added, str) or not key_added):
            msg = f"`key_added` must be a non-empty string or None, got {key_added!r}."
            raise ValueError(msg)
        return cls(key_added or DEFAULT)

    @property
    def embedding(self) -> str:
        """``obsm`` of the ATAC modality: float32 array (n_cells, d)."""
        return f"X_{self.key}"

    @property
    def layer(self) -> str:
        """``layers`` of the RNA modality: predicted expression (n_cells, n_genes)."""
        return self.key

    @property
    def expression(self) -> str:
        """``obsm`` of the ATAC modality when there is no RNA: DataFrame, one column a gene."""
        return f"{self.key}_expression"

    @property
    def cell_type(self) -> str:
        """``obs`` of the ATAC modality: categorical."""
        return f"{self.key}_cell_type"

    @property
    def confidence(self) -> str:
        """``obs`` of the ATAC modality: calibrated probability of the cell type."""
        return f"{self.key}_confidence"

    @property
    def prediction_set(self) -> str:
        """``obs`` of the ATAC modality: labels that cannot be excluded, as text, likeliest first."""
        return f"{self.key}_set"

    @property
    def novelty(self) -> str:
        """``obs`` of the ATAC modality: how unlike the reference a cell is."""
        return f"{self.key}_novelty"

    @property
    def annotation(self) -> str:
        """``uns`` of the ATAC modality: how the cell types came about."""
        return f"{self.key}_annotation"

    @property
    def integration(self) -> str:
        """``uns`` of the ATAC modality: scores of embeddings, one row each."""
        return f"{self.key}_integration"

    @property
    def probabilities(self) -> str:
        """``obsm`` of the ATAC modality: DataFrame, one column a label."""
        return f"{self.key}_probabilities"

    @property
    def coverage(self) -> str:
        """``obs`` of the ATAC modality: fraction of a cell's open peaks that the model knows."""
        return f"{self.key}_coverage"

    @property
    def matched(self) -> str:
        """``var`` of the ATAC modality: how many peaks of the model a peak maps to."""
        return f"{self.key}_matched"

    @property
    def peaks(self) -> str:
        """``obsm`` of the ATAC modality: open peaks of the model, sparse (n_cells, n_vocabulary)."""
        return f"{self.key}_peaks"

    @property
    def fragments(self) -> str:
        """``uns`` of the ATAC modality: what was counted, from which files."""
        return f"{self.key}_fragments"

    @property
    def uns(self) -> str:
        """``uns`` of the ATAC modality: model, parameters and peak mapping."""
        return self.key

    @property
    def file(self) -> str:
        """``obs`` of results of several files: which of them a cell is from."""
        return f"{self.key}_file"

    @property
    def files(self) -> str:
        """``uns`` of results of several files: DataFrame, how the peaks of each were mapped."""
        return f"{self.key}_files"

    @property
    def run(self) -> str:
        """``uns`` of a file of results: what tells whether the same call made it."""
        return f"{self.key}_run"

    @property
    def links(self) -> str:
        """``uns`` of the ATAC modality: DataFrame, one row a gene, peak and group."""
        return f"{self.key}_links"

    @property
    def links_report(self) -> str:
        """``uns`` of the ATAC modality: how the links came about."""
        return f"{self.key}_links_report"

    @property
    def accessibility(self) -> str:
        """``obsm`` of the ATAC modality (cells x asked peaks) or ``varm`` (peaks x groups): DataFrame of probabilities."""
        return f"{self.key}_accessibility"
