"""Baselines that a recommender has to beat. Each is fitted on rows and scores every item for each history."""

from transformers import AutoConfig, AutoModel

from .caser import Caser
from .co_visitation import CoVisitation, CoVisitationWeighting
from .gru4rec import GRU4Rec
from .lin_rec import LinRec
from .mamba4rec import Mamba4Rec
from .mo_rec import MoRec
from .popularity import Popularity
from .recommender_fusion import Fusion
from .recommending import CatalogRecommender
from .sasrec import SASRec
from .saved import load_baseline
from .sequential import SequentialRecommender, training_arguments
from .transitions import Transitions, TransitionWeighting


__all__ = [
    "Caser",
    "CatalogRecommender",
    "CoVisitation",
    "CoVisitationWeighting",
    "Fusion",
    "GRU4Rec",
    "LinRec",
    "Mamba4Rec",
    "MoRec",
    "Popularity",
    "SASRec",
    "SequentialRecommender",
    "TransitionWeighting",
    "Transitions",
    "load_baseline",
    "training_arguments",
]

for _model in (Caser, GRU4Rec, LinRec, Mamba4Rec, MoRec, SASRec):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
