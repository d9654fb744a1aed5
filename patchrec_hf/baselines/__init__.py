"""Baselines: what a recommender has to beat. Each is fitted on example rows and scores every item for a history."""

from .caser import Caser
from .co_visitation import CoVisitation
from .gru4rec import GRU4Rec
from .lin_rec import LinRec
from .mamba4rec import Mamba4Rec
from .mo_rec import MoRec
from .popularity import Popularity
from .sasrec import SASRec


__all__ = ["Caser", "CoVisitation", "GRU4Rec", "LinRec", "Mamba4Rec", "MoRec", "Popularity", "SASRec"]
