"""Zero-cost scores of architectures: proxies, their rank aggregates, isomers, and PreNAS's selector of architectures."""

from pynas.zero_cost.aggregate import AGGREGATES, aggregate
from pynas.zero_cost.blocks import block_features
from pynas.zero_cost.isomers import Groups, exact, greedy
from pynas.zero_cost.kinds import check_space, read_scores, saliency
from pynas.zero_cost.preferred import Preferred, PreferredSpace, load_preferred, save_preferred
from pynas.zero_cost.proxies import PROXIES, score
from pynas.zero_cost.saliency import Saliency, gradients, random_images
from pynas.zero_cost.score_networks import kaiming, lowest_for_none, score_networks, write_scores
from pynas.zero_cost.selector import select
from pynas.zero_cost.vkdnw import fisher_factor

__all__ = ["AGGREGATES", "PROXIES", "Groups", "Preferred", "PreferredSpace", "Saliency", "aggregate", "block_features",
           "check_space", "exact", "fisher_factor", "gradients", "greedy", "kaiming", "load_preferred", "lowest_for_none",
           "random_images", "read_scores", "saliency", "save_preferred", "score", "score_networks", "select",
           "write_scores"]  # fmt: skip
