"""Zero-cost scores of architectures: proxies, isomers, and the selector of preferred architectures (PreNAS)."""

from pynas.zero_cost.isomers import Groups, exact, greedy
from pynas.zero_cost.kinds import check_space, read_scores, saliency
from pynas.zero_cost.preferred import Preferred, PreferredSpace, load_preferred, save_preferred
from pynas.zero_cost.proxies import PROXIES, score
from pynas.zero_cost.saliency import Saliency, gradients, random_images
from pynas.zero_cost.selector import select

__all__ = ["PROXIES", "Groups", "Preferred", "PreferredSpace", "Saliency", "check_space", "exact", "gradients", "greedy",
           "load_preferred", "random_images", "read_scores", "saliency", "save_preferred", "score",
           "select"]  # fmt: skip
