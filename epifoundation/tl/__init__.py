"""Tools: train models, embed and annotate cells, predict expression, link peaks to genes."""

from ._annotate import annotate
from ._embed import embed
from ._finetune import finetune
from ._gene_activity import gene_activity
from ._impute_accessibility import impute_accessibility
from ._knock_out import knock_out, scan_knock_outs
from ._link_peaks import link_peaks
from ._link_variants import link_variants
from ._predict_expression import predict_expression
from ._pretrain import pretrain
from ._score_integration import score_integration
from ._write_links import write_links

__all__ = [
    "annotate",
    "embed",
    "finetune",
    "gene_activity",
    "impute_accessibility",
    "knock_out",
    "link_peaks",
    "link_variants",
    "predict_expression",
    "pretrain",
    "scan_knock_outs",
    "score_integration",
    "write_links",
]
