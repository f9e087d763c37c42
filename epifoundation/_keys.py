"""Names of all results that are written into the data, shared by tools and plots."""

from dataclasses import dataclass

from ._columns import column_keys

DEFAULT_KEY = "epifoundation"
UNKNOWN_LABEL = "unknown"  # label of cells that resemble no cell of the reference
UNKNOWN_COLOR = "#d3d3d3"  # light grey, also of cells without a label
SEPARATOR = " | "  # between the labels of a prediction set


@dataclass(frozen=True)
class Keys:
    """Names derived from ``key_added``; ``None`` means ``"epifoundation"``."""

    key: str = DEFAULT_KEY

    @classmethod
    def of(cls, key_added: str | None) -> "Keys":
        if key_added is None:
            return cls()
        is_name = isinstance(key_added, str) and key_added.strip(" .") and key_added.isprintable()
        if not is_name or "/" in key_added:  # files cannot have such names
            msg = "`key_added` must be None or a string of printable characters without '/', not "
            msg += f"only blanks or dots; got {key_added!r}."
            raise ValueError(msg)
        if column_keys([key_added]) != [key_added]:
            msg = f"`key_added={key_added!r}` is not a key that h5ad and zarr accept: without "
            msg += f"slashes, such as {column_keys([key_added])[0]!r}."
            raise ValueError(msg)
        return cls(key_added)

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
        """``obsm`` of the ATAC modality if cells have no RNA: DataFrame, one column per gene."""
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
    def lineage(self) -> str:
        """``obs`` of the ATAC modality: categorical, if the model knows the lineages of labels."""
        return f"{self.key}_lineage"

    @property
    def lineage_confidence(self) -> str:
        """``obs`` of the ATAC modality: probability of the lineage."""
        return f"{self.key}_lineage_confidence"

    @property
    def resolved(self) -> str:
        """``obs`` of the ATAC modality: cell type if it is probable, else lineage, else unknown."""
        return f"{self.key}_resolved"

    @property
    def ontology(self) -> str:
        """``obs`` of the ATAC modality: Cell Ontology identifier of the cell type."""
        return f"{self.key}_ontology_id"

    @property
    def prediction_set(self) -> str:
        """``obs`` of the ATAC modality: labels of the prediction set, most probable first."""
        return f"{self.key}_set"

    @property
    def novelty(self) -> str:
        """``obs`` of the ATAC modality: distance of a cell to the reference."""
        return f"{self.key}_novelty"

    @property
    def in_training(self) -> str:
        """``obs`` of the ATAC modality: whether the encoder learned from the cell."""
        return f"{self.key}_in_training"

    @property
    def in_reference(self) -> str:
        """``obs`` of the ATAC modality: whether the labels were learned from the cell."""
        return f"{self.key}_in_reference"

    @property
    def annotation(self) -> str:
        """``uns`` of the ATAC modality: parameters of the annotation."""
        return f"{self.key}_annotation"

    @property
    def integration(self) -> str:
        """``uns`` of the ATAC modality: DataFrame of scores, one row per embedding."""
        return f"{self.key}_integration"

    @property
    def probabilities(self) -> str:
        """``obsm`` of the ATAC modality: DataFrame, one column per label."""
        return f"{self.key}_probabilities"

    @property
    def coverage(self) -> str:
        """``obs`` of the ATAC modality: fraction of a cell's open peaks that the model knows."""
        return f"{self.key}_coverage"

    @property
    def matched(self) -> str:
        """``var`` of the ATAC modality: 1 if a peak maps to one of the model, else 0."""
        return f"{self.key}_matched"

    @property
    def peaks(self) -> str:
        """``obsm`` of the ATAC modality: open peaks of the model, sparse (n_cells, n_peaks)."""
        return f"{self.key}_peaks"

    @property
    def fragments(self) -> str:
        """``uns`` of the ATAC modality: files and totals of counted fragments."""
        return f"{self.key}_fragments"

    @property
    def uns(self) -> str:
        """``uns`` of the ATAC modality: model, parameters and peak mapping."""
        return self.key

    @property
    def file(self) -> str:
        """``obs`` of results of several files: the file of each cell."""
        return f"{self.key}_file"

    @property
    def files(self) -> str:
        """``uns`` of results of several files: DataFrame, mapping of the peaks of each."""
        return f"{self.key}_files"

    @property
    def run(self) -> str:
        """``uns`` of a result file: fingerprint of the call that wrote it."""
        return f"{self.key}_run"

    @property
    def links(self) -> str:
        """``uns`` of the ATAC modality: DataFrame, one row per gene, peak and group."""
        return f"{self.key}_links"

    @property
    def links_report(self) -> str:
        """``uns`` of the ATAC modality: parameters and summary of the links."""
        return f"{self.key}_links_report"

    @property
    def accessibility(self) -> str:
        """DataFrame of probabilities: ``obsm`` (cells x peaks) or ``varm`` (peaks x groups)."""
        return f"{self.key}_accessibility"
