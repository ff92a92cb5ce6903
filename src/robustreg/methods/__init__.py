"""Papers as compositions: one file a paper, each a function that returns an objective and carries a card."""

from robustreg.methods.aaer import n_aaer, rs_aaer
from robustreg.methods.adr import adr
from robustreg.methods.alp import alp
from robustreg.methods.arow import arow
from robustreg.methods.card import Card, card_of
from robustreg.methods.cross_lipschitz import cross_lipschitz
from robustreg.methods.cure import cure
from robustreg.methods.edge_reg import edge_reg
from robustreg.methods.elle import elle, elle_a
from robustreg.methods.energy import energy
from robustreg.methods.fgsm_pgi import fgsm_pgi
from robustreg.methods.gair import gair
from robustreg.methods.gat import gat
from robustreg.methods.grad_align import grad_align
from robustreg.methods.grad_norm import grad_norm, warn_if_relu
from robustreg.methods.gradient_family import gradient_family
from robustreg.methods.hat import hat
from robustreg.methods.ikl import ikl
from robustreg.methods.input_gradient import double_backpropagation, tulip
from robustreg.methods.jacobian import jacobian
from robustreg.methods.liet import liet
from robustreg.methods.llr import llr
from robustreg.methods.lp_fgsm import lp_fgsm
from robustreg.methods.mart import mart
from robustreg.methods.multi_grad import multi_grad
from robustreg.methods.n_fgsm import n_fgsm
from robustreg.methods.nuat import nuat
from robustreg.methods.pgd_at import pgd_at
from robustreg.methods.r_fgsm import r_fgsm
from robustreg.methods.rebat import rebat
from robustreg.methods.rs_fgsm import rs_fgsm
from robustreg.methods.rst import rst
from robustreg.methods.sat import sat_r1, sat_r2, sat_r3
from robustreg.methods.sora import sora
from robustreg.methods.srst_awr import srst_awr
from robustreg.methods.trades import trades
from robustreg.methods.uat import uat
from robustreg.methods.vat import adversarial_training_l2, vat
from robustreg.methods.zero_grad import zero_grad

__all__ = [
    "Card",
    "adr",
    "adversarial_training_l2",
    "alp",
    "arow",
    "card_of",
    "cross_lipschitz",
    "cure",
    "double_backpropagation",
    "edge_reg",
    "elle",
    "elle_a",
    "energy",
    "fgsm_pgi",
    "gair",
    "gat",
    "grad_align",
    "grad_norm",
    "gradient_family",
    "hat",
    "ikl",
    "jacobian",
    "liet",
    "llr",
    "lp_fgsm",
    "mart",
    "multi_grad",
    "n_aaer",
    "n_fgsm",
    "nuat",
    "pgd_at",
    "r_fgsm",
    "rebat",
    "rs_aaer",
    "rs_fgsm",
    "rst",
    "sat_r1",
    "sat_r2",
    "sat_r3",
    "sora",
    "srst_awr",
    "trades",
    "tulip",
    "uat",
    "vat",
    "warn_if_relu",
    "zero_grad",
]
